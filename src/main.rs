//! Settings to values to servers, until a signal.

fn main() {}
