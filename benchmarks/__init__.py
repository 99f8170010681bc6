"""`make bench`: each figure beside a peer measured in the same run."""
