"""One run: request, models, pipeline, shards, folder, record; and several runs side by side."""
