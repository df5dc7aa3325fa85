"""Images as numbers: data sets, conversion to and from uint8, names of classes."""
