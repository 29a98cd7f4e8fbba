//! Each fault, seen from the other end.
