"""Images to numbers: extractors, statistics, metrics, references."""
