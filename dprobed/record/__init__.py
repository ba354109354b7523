"""What a hit reports: the record, the items of its log, its text form. No I/O."""
