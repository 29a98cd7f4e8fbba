//! Records in a journal of the store, as `upstream`, which knows no storage, has its ledger kept.

use futures_util::future::join_all;
use weir_storage::Journal;

use crate::upstream::ledger::{LedgerStore, WriteFuture};

/// Keeps records in a journal of the store.
#[derive(Debug)]
pub struct RecordJournal(pub Journal);

impl LedgerStore for RecordJournal {
    fn append_all(&self, records: Vec<Vec<u8>>) -> WriteFuture {
        let journal = self.0.clone();
        Box::pin(async move {
            // All are queued before the first is answered, so that the journal syncs once for all of them.
            let appended = join_all(records.iter().map(|record| journal.append(record))).await;
            appended.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string())
        })
    }

    fn compact(&self, records: Vec<Vec<u8>>) -> WriteFuture {
        let journal = self.0.clone();
        let records = records.into_iter().map(Into::into).collect();
        Box::pin(async move { journal.compact(records).await.map_err(|error| error.to_string()) })
    }
}
