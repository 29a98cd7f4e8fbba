//! A bounded queue of log lines, and the thread that writes them: a request never waits for a disk or a terminal.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::sink::Sink;

/// Lines that wait at most, of about a kilobyte each: some tenths of a second of the fastest Weir.
const LINES: usize = 8192;
/// How long lines gather before they are written together: one system call for many, and no wake-up for each.
const GATHER: Duration = Duration::from_millis(5);
/// Bytes that are written at once.
const BATCH: usize = 64 << 10;
/// How often it is said at most that lines were lost.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Takes lines. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct LineQueue {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Message {
    /// Without its end.
    Line(Arc<str>),
    /// Something is to be done besides writing.
    Wake,
    /// Everything before this is to be written, and then this answered.
    Flush(SyncSender<()>),
}

impl LineQueue {
    /// Writes what comes to this sink, on a thread of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(sink: Sink) -> io::Result<LineQueue> {
        let (lines, received) = sync_channel(LINES);
        let queue = LineQueue { lines, lost: Arc::default(), reopen: Arc::default() };
        let (lost, reopen) = (queue.lost.clone(), queue.reopen.clone());
        let writer = Writer { sink, gather: GATHER, lost, reopen, said: None };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&received))?;
        Ok(queue)
    }

    /// A file is opened anew before the next line: its name may belong to another one by then.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // When the queue is full, the thread is awake.
        let _ = self.lines.try_send(Message::Wake);
    }

    /// Waits until what was taken so far is written, or for as long as `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let (done, is_done) = sync_channel(1);
        let begun = Instant::now();
        let mut message = Message::Flush(done);
        while let Err(refused) = self.lines.try_send(message) {
            let (std::sync::mpsc::TrySendError::Full(again) | std::sync::mpsc::TrySendError::Disconnected(again)) =
                refused;
            if begun.elapsed() > patience {
                return;
            }
            message = again;
            thread::sleep(GATHER);
        }
        let _ = is_done.recv_timeout(patience.saturating_sub(begun.elapsed()));
    }

    /// Takes one line, without its end; it is lost when too many wait.
    pub(super) fn push(&self, line: Arc<str>) {
        if self.lines.try_send(Message::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written, since the start.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The thread's side.
struct Writer {
    sink: Sink,
    /// [`GATHER`], but in tests.
    gather: Duration,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    /// When it was last said that lines are lost, and how many were by then.
    said: Option<(Instant, u64)>,
}

impl Writer {
    fn run(mut self, received: &Receiver<Message>) {
        let mut batch = Batch::default();
        // The last batch was full: the lines that it left have gathered already. With a pause before each batch, no more than about
        // 30,000 lines a second could be written.
        let mut was_full = false;
        while let Ok(message) = received.recv() {
            batch.take(message);
            if batch.flushed.is_empty() && !was_full {
                thread::sleep(self.gather);
            }
            while batch.bytes.len() < BATCH
                && let Ok(message) = received.try_recv()
            {
                batch.take(message);
            }
            was_full = batch.bytes.len() >= BATCH;
            if self.reopen.swap(false, Ordering::AcqRel) {
                self.sink.reopen();
            }
            if batch.lines > 0
                && let Err(error) = self.sink.write(&batch.bytes)
            {
                self.lost.fetch_add(batch.lines, Ordering::Relaxed);
                self.complain(&error.to_string());
            }
            self.complain("more came than can be written");
            for done in batch.flushed.drain(..) {
                let _ = done.try_send(());
            }
            batch = Batch { flushed: batch.flushed, ..Batch::default() };
        }
    }

    /// Says how many lines were lost since that was last said.
    fn complain(&mut self, reason: &str) {
        let (lost, now) = (self.lost.load(Ordering::Relaxed), Instant::now());
        let (since, before) = self.said.unzip();
        let is_due = since.is_none_or(|since| now.duration_since(since) >= COMPLAIN);
        let lines = lost - before.unwrap_or(0);
        if lines > 0 && is_due {
            self.said = Some((now, lost));
            tracing::warn!(lines, reason, to = %self.sink, "lines of the access log are lost");
        }
    }
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    flushed: Vec<SyncSender<()>>,
}

impl Batch {
    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                self.bytes.extend_from_slice(line.as_bytes());
                self.bytes.push(b'\n');
                self.lines += 1;
            }
            Message::Wake => {}
            Message::Flush(done) => self.flushed.push(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_reader_that_takes_nothing_makes_no_line_wait_and_what_is_lost_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("log");
        let log = UnixDatagram::bind(&socket).unwrap();
        let queue = LineQueue::start(Sink::syslog(&socket).unwrap()).unwrap();
        let written = 4 * LINES as u64;
        for _ in 0..written {
            queue.push("a line".into());
        }
        let lost = queue.lost();
        assert!(lost > 0, "the socket takes a few and no more");
        // Once it is read again, everything that was taken comes.
        let reader = thread::spawn(move || {
            let (mut count, mut buffer) = (0, [0; 64]);
            while count < written - lost {
                log.recv(&mut buffer).unwrap();
                count += 1;
            }
        });
        reader.join().unwrap();
        queue.flush(Duration::from_secs(60));
        assert_eq!(queue.lost(), lost);
    }

    #[test]
    fn lines_that_one_batch_left_are_written_without_a_pause() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (lines, received) = sync_channel(LINES);
        // A pause would outlast the patience below.
        let (sink, gather) = (Sink::file(&path).unwrap(), Duration::from_secs(3600));
        let writer = Writer { sink, gather, lost: Arc::default(), reopen: Arc::default(), said: None };
        let (done, is_done) = sync_channel(2);
        let line: Arc<str> = "x".repeat(BATCH / 128).into();
        let written = LINES - 2;
        // What is flushed is not waited for, so the first batch has no pause either.
        lines.send(Message::Flush(done.clone())).unwrap();
        for _ in 0..written {
            lines.send(Message::Line(line.clone())).unwrap();
        }
        lines.send(Message::Flush(done)).unwrap();
        thread::spawn(move || writer.run(&received));
        for _ in 0..2 {
            is_done.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), written);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let [path, moved] = ["access.log", "access.log.1"].map(|name| directory.path().join(name));
        let queue = LineQueue::start(Sink::file(&path).unwrap()).unwrap();
        let read = |path| std::fs::read_to_string(path).unwrap();
        let patience = Duration::from_secs(60);
        queue.push("one".into());
        LineQueue::flush(&queue, patience);
        std::fs::rename(&path, &moved).unwrap();
        queue.push("two".into());
        LineQueue::flush(&queue, patience);
        assert_eq!(read(&moved), "one\ntwo\n");
        queue.reopen();
        queue.push("three".into());
        LineQueue::flush(&queue, patience);
        assert_eq!((read(&moved), read(&path)), ("one\ntwo\n".to_owned(), "three\n".to_owned()));
    }
}
