"""From sources to rows, and from rows to tokens on disk: encoded once per study, mapped by every job."""
