//! Who watches the log, and which of the watchers gives way to another. Pure but for the signal that ends one.

use tokio::sync::oneshot;

/// Watchers at once. Each is a connection of a person that stays open, and up to 256 lines of 2 KiB.
const WATCHERS: usize = 32;
/// Watchers of one account or address, so that its forgotten windows leave the others theirs.
const SHARE: usize = 4;

/// The watchers, those that began first at the front.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    entries: Vec<Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    by: Box<str>,
    /// Dropped when it gives way, which the watcher notices.
    _end: oneshot::Sender<()>,
}

impl Watchers {
    /// A place for one more of this account or address, and what ends when it must give way. An own watcher gives way when there are as many as
    /// one may have; when all places are taken, one of those that have most. Nothing when all others have no more than one.
    pub(super) fn enter(&mut self, by: &str) -> Option<(u64, oneshot::Receiver<()>)> {
        let own = self.count(by);
        if own >= SHARE {
            self.end_oldest(&Box::from(by));
        } else if self.entries.len() >= WATCHERS {
            let most = self.entries.iter().max_by_key(|entry| self.count(&entry.by))?.by.clone();
            if self.count(&most) <= own + 1 {
                return None;
            }
            self.end_oldest(&most);
        }
        let (end, ended) = oneshot::channel();
        let id = self.next;
        self.next += 1;
        self.entries.push(Entry { id, by: by.into(), _end: end });
        Some((id, ended))
    }

    pub(super) fn leave(&mut self, id: u64) {
        self.entries.retain(|entry| entry.id != id);
    }

    fn count(&self, by: &str) -> usize {
        self.entries.iter().filter(|entry| &*entry.by == by).count()
    }

    fn end_oldest(&mut self, by: &str) {
        if let Some(oldest) = self.entries.iter().position(|entry| &*entry.by == by) {
            self.entries.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ended(watcher: &mut (u64, oneshot::Receiver<()>)) -> bool {
        watcher.1.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_of_one_s_own_gives_way_and_none_of_another() {
        let mut watchers = Watchers::default();
        let mut other = watchers.enter("ann").unwrap();
        let mut own: Vec<_> = (0..SHARE + 2).map(|_| watchers.enter("ops").unwrap()).collect();
        let ended: Vec<bool> = own.iter_mut().map(is_ended).collect();
        assert_eq!(ended, [true, true, false, false, false, false]);
        assert!(!is_ended(&mut other));
    }

    #[test]
    fn when_all_places_are_taken_one_of_those_that_have_most_gives_way() {
        let mut watchers = Watchers::default();
        let mut taken: Vec<_> = (0..WATCHERS).map(|one| watchers.enter(&format!("{}", one / SHARE)).unwrap()).collect();
        assert_eq!(watchers.entries.len(), WATCHERS);
        let mut newcomer = watchers.enter("ann").unwrap();
        assert_eq!(taken.iter_mut().map(is_ended).filter(|is_ended| *is_ended).count(), 1);
        assert!(!is_ended(&mut newcomer));
        assert_eq!(watchers.entries.len(), WATCHERS);
    }

    #[test]
    fn the_only_watcher_of_another_never_gives_way() {
        let mut watchers = Watchers::default();
        let taken: Vec<_> = (0..WATCHERS).map(|one| watchers.enter(&one.to_string()).unwrap()).collect();
        assert!(watchers.enter("ann").is_none());
        watchers.leave(taken[3].0);
        assert!(watchers.enter("ann").is_some(), "one that left makes place");
    }
}
