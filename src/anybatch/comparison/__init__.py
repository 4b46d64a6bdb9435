"""The same rows to several backends: whether the answers agree, where they part, and how long they take."""
