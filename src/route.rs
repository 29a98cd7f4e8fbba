//! stub: a name (+ ns) → Mirrored(upstream, repository) | nothing; http dispatches on it
