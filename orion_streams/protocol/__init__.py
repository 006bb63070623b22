"""Pure translation between stream entries and events: requests, replies, work, results, commits."""
