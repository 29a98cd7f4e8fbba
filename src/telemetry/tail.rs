//! The last lines of the log, for people to look at while it goes on: each line is kept for a while as it is written, and is sent
//! to those that watch.
//!
//! A line costs a lock, and the watchers cost the writer nothing: one that is slow misses lines, and learns how many.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{
    broadcast::{self, error::RecvError},
    oneshot,
};
use tracing_subscriber::fmt::MakeWriter;

use super::watchers::Watchers;

/// Lines that are kept: some minutes of a busy registry. With [`LONGEST`] that is 4 MiB at most.
const LINES: usize = 2000;
/// Bytes of a line that are kept; a line of the access log has a few hundred.
const LONGEST: usize = 2048;
/// Lines that one watcher may be behind: its share. What comes meanwhile is missed by that watcher alone.
const BEHIND: usize = 256;

/// The tail of the log. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Tail(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: Mutex<VecDeque<Arc<str>>>,
    sender: broadcast::Sender<Arc<str>>,
    watchers: Mutex<Watchers>,
    /// How many there are, for the writer, which takes no second lock.
    watching: AtomicUsize,
}

impl Default for Tail {
    fn default() -> Tail {
        let (lines, sender) = (Mutex::default(), broadcast::Sender::new(BEHIND));
        Tail(Arc::new(Inner { lines, sender, watchers: Mutex::default(), watching: AtomicUsize::new(0) }))
    }
}

/// A reader of the tail, until this is dropped.
#[derive(Debug)]
pub struct Watcher {
    inner: Arc<Inner>,
    id: u64,
    ended: oneshot::Receiver<()>,
    receiver: broadcast::Receiver<Arc<str>>,
}

/// What a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailEvent {
    /// A line, without its end.
    Line(Arc<str>),
    /// So many lines came faster than they were taken.
    Missed(u64),
    /// The last: this watcher gave way to a newer one.
    GaveWay,
}

impl Tail {
    /// Keeps a line, and sends it to the watchers. It is copied when it is too long.
    pub fn push(&self, line: impl Into<Arc<str>>) {
        let line = line.into();
        let line = if line.len() > LONGEST { line[..line.floor_char_boundary(LONGEST)].into() } else { line };
        {
            let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() >= LINES {
                lines.pop_front();
            }
            lines.push_back(line.clone());
        }
        if self.0.watching.load(Ordering::Acquire) > 0 {
            let _ = self.0.sender.send(line);
        }
    }

    /// The newest lines that are wanted, at most so many, the oldest first.
    pub fn newest(&self, most: usize, is_wanted: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let lines: Vec<_> = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let mut found: Vec<_> = lines.into_iter().rev().filter(|line| is_wanted(line)).take(most).collect();
        found.reverse();
        found
    }

    /// Watches from now on for this account or address, of which an older watcher may have to give way; nothing when too many others watch.
    pub fn watch(&self, by: &str) -> Option<Watcher> {
        let (id, ended) = self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner).enter(by)?;
        self.0.watching.fetch_add(1, Ordering::AcqRel);
        Some(Watcher { inner: self.0.clone(), id, ended, receiver: self.0.sender.subscribe() })
    }
}

impl Watcher {
    /// The next line, once it is there; nothing when there will be none.
    pub async fn next(&mut self) -> Option<TailEvent> {
        if self.ended.is_terminated() {
            return None;
        }
        tokio::select! {
            biased;
            _ = &mut self.ended => Some(TailEvent::GaveWay),
            received = self.receiver.recv() => match received {
                Ok(line) => Some(TailEvent::Line(line)),
                Err(RecvError::Lagged(missed)) => Some(TailEvent::Missed(missed)),
                Err(RecvError::Closed) => None,
            },
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.inner.watching.fetch_sub(1, Ordering::AcqRel);
        self.inner.watchers.lock().unwrap_or_else(PoisonError::into_inner).leave(self.id);
    }
}

/// Writes what another writer writes to the tail, too. A subscriber writes each event at once.
#[derive(Debug)]
pub(super) struct Tee<M>(pub(super) Tail, pub(super) M);

/// One line on its way.
#[derive(Debug)]
pub(super) struct TeeWriter<'a, W>(&'a Tail, W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Tee<M> {
    type Writer = TeeWriter<'a, M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        TeeWriter(&self.0, self.1.make_writer())
    }
}

impl<W: Write> Write for TeeWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.push(String::from_utf8_lossy(bytes).trim_end());
        self.1.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[Arc<str>]) -> Vec<&str> {
        lines.iter().map(|line| &**line).collect()
    }

    #[test]
    fn the_newest_lines_that_are_wanted_are_kept_within_bounds() {
        let tail = Tail::default();
        for number in 0..3 * LINES {
            tail.push(format!("line {number}"));
        }
        let last = 3 * LINES - 1;
        assert_eq!(texts(&tail.newest(2, |_| true)), [format!("line {}", last - 1), format!("line {last}")]);
        assert_eq!(tail.newest(usize::MAX, |_| true).len(), LINES);
        assert_eq!(texts(&tail.newest(9, |line| line.ends_with("5999"))), ["line 5999"]);
        tail.push("é".repeat(LONGEST));
        assert_eq!(tail.newest(1, |_| true)[0].len(), LONGEST);
    }

    #[tokio::test]
    async fn a_watcher_gets_each_line_and_is_told_what_it_missed() {
        let tail = Tail::default();
        tail.push("before");
        let mut watcher = tail.watch("ann").unwrap();
        tail.push("after");
        assert_eq!(watcher.next().await, Some(TailEvent::Line("after".into())));
        for number in 0..BEHIND + 5 {
            tail.push(number.to_string());
        }
        assert_eq!(watcher.next().await, Some(TailEvent::Missed(5)));
        assert_eq!(watcher.next().await, Some(TailEvent::Line("5".into())));
    }

    #[tokio::test]
    async fn a_watcher_that_gives_way_learns_it_and_one_that_leaves_makes_place() {
        let tail = Tail::default();
        let mut first = tail.watch("ann").unwrap();
        for _ in 0..100 {
            drop(tail.watch("ann").unwrap());
        }
        tail.push("a line");
        assert_eq!(first.next().await, Some(TailEvent::Line("a line".into())));
        let _newer: Vec<_> = (0..100).map(|_| tail.watch("ann").unwrap()).collect();
        assert_eq!((first.next().await, first.next().await), (Some(TailEvent::GaveWay), None));
    }
}
