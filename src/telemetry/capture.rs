//! A reader of the log for tests.

use std::{cell::RefCell, io, sync::Once};

use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, dynamic_filter_fn},
    layer::SubscriberExt as _,
};

thread_local! {
    /// What this thread has logged since it began to capture; `None` while it does not.
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// What this thread logs during `work`, as one would read it from a file: a JSON object a line.
///
/// One subscriber serves all threads of the test process, and each thread has a buffer of its own. A subscriber for one
/// thread alone would not do: `tracing` caches for the whole process whether any subscriber wants an event, and a thread without
/// a subscriber that meets the event first switches it off for all.
pub(crate) fn logged(work: impl FnOnce()) -> String {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let wanted = dynamic_filter_fn(|_, _| CAPTURED.with_borrow(Option::is_some));
        let layer = tracing_subscriber::fmt::layer().json().with_writer(|| Buffer).with_filter(wanted);
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO));
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
    CAPTURED.set(Some(Vec::new()));
    work();
    String::from_utf8(CAPTURED.take().unwrap()).unwrap()
}

struct Buffer;

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        CAPTURED.with_borrow_mut(|captured| captured.as_mut().map(|captured| captured.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_that_does_not_listen_switches_nothing_off() {
        let log = || tracing::warn!("said");
        std::thread::spawn(log).join().unwrap();
        assert!(super::logged(log).contains("said"));
        std::thread::spawn(log).join().unwrap();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (answer, answered) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            asked.recv().unwrap();
            first();
            answer.send(()).unwrap();
        });
        // Another thread meets an event for the first time while this one captures.
        let text = super::logged(|| {
            ask.send(()).unwrap();
            answered.recv().unwrap();
            first();
        });
        other.join().unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    fn first() {
        tracing::warn!("met");
    }
}
