//! What a bucket must be able to do, tried out: with it many replicas can share it, and without it they cannot.

use bytes::Bytes;
use futures_util::future::join_all;

use crate::{
    client::{Client, PART},
    error::Error,
    keys,
};

/// Clients that create one key at once, and how often: a store that checks and then writes lets several win, most times.
const RACERS: usize = 24;
const RACES: usize = 3;

/// Why a bucket cannot be shared now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It was not reached. It may be when it is tried again.
    #[error("{0}")]
    Unreachable(Error),
    /// It answers that this may not be: no such bucket, no right to it.
    #[error("{0}; look at the bucket's name, its region, and the credentials")]
    Refused(Error),
    /// It cannot do what replicas need.
    #[error("this store cannot be shared by replicas: {0}")]
    Lacks(String),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Unfit {
        match error {
            Error::Unreachable(_) | Error::Away => Unfit::Unreachable(error),
            Error::Refused(_) | Error::Conflict | Error::Malformed(_) => Unfit::Refused(error),
        }
    }
}

/// Tries a bucket out under keys of its own, which it removes.
pub(crate) async fn run(client: &Client, unique: &str) -> Result<(), Unfit> {
    let key = |name: &str| keys::probe(&format!("{unique}-{name}"));
    let raced: Vec<String> = (0..RACES).map(|race| key(&format!("race{race}"))).collect();
    let (version, parts) = (key("version"), key("parts"));
    let result = async {
        create_and_update(client, &version).await?;
        for key in &raced {
            race(client, key).await?;
        }
        multipart_and_ranges(client, &parts).await
    }
    .await;
    // At once, as a start waits for it. What stays is a few kilobytes under `probe/`.
    join_all(raced.iter().chain([&version, &parts]).map(|key| client.remove(key))).await;
    result
}

fn lacks(what: &str) -> Unfit {
    Unfit::Lacks(what.to_owned())
}

async fn create_and_update(client: &Client, key: &str) -> Result<(), Unfit> {
    let first = client.create(key, Bytes::from_static(b"one")).await?;
    if first.0.is_none() {
        return Err(lacks("it names no version (ETag) of what was written"));
    }
    match client.create(key, Bytes::from_static(b"again")).await {
        Err(Error::Conflict) => {}
        Ok(_) => return Err(lacks("it writes over a key that exists when it is asked not to (If-None-Match)")),
        Err(error) => return Err(error.into()),
    }
    match client.update(key, Bytes::from_static(b"two"), first.clone()).await {
        Ok(_) => {}
        Err(Error::Conflict) => return Err(lacks("it refuses an update of the newest version (If-Match)")),
        Err(error) => return Err(error.into()),
    }
    match client.update(key, Bytes::from_static(b"three"), first).await {
        Err(Error::Conflict) => {}
        Ok(_) => return Err(lacks("it takes an update of an old version (If-Match)")),
        Err(error) => return Err(error.into()),
    }
    match client.get(key, 16).await? {
        Some(object) if object.bytes == "two" => Ok(()),
        _ => Err(lacks("it does not give what was written last")),
    }
}

async fn race(client: &Client, key: &str) -> Result<(), Unfit> {
    let racers = (0..RACERS).map(|racer| client.create(key, Bytes::from(format!("{racer}"))));
    let mut winners = Vec::new();
    for (racer, outcome) in join_all(racers).await.into_iter().enumerate() {
        match outcome {
            Ok(_) => winners.push(racer),
            Err(Error::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match (&winners[..], client.get(key, 16).await?) {
        ([winner], Some(object)) if object.bytes == format!("{winner}") => Ok(()),
        ([_], _) => Err(lacks("of several who create one key at once it keeps another than the one it names")),
        (winners, _) => Err(Unfit::Lacks(format!(
            "of {RACERS} who create one key at once it lets {} win, and not one",
            winners.len()
        ))),
    }
}

async fn multipart_and_ranges(client: &Client, key: &str) -> Result<(), Unfit> {
    let (first, last) = (Bytes::from(vec![b'a'; PART]), Bytes::from_static(b"bcd"));
    let mut parts = client.begin(key).await?;
    for part in [first, last] {
        client.append(&mut parts, part).await?;
    }
    client.complete(&mut parts).await?;
    let size = PART as u64 + 3;
    if client.size(key).await? != Some(size) {
        return Err(lacks("what was written in parts is not as long as they were"));
    }
    // The last of the first part, and the second.
    let no_range = || lacks("it does not give the range that it is asked for");
    let mut stream = match client.stream(key, size - 4).await {
        Ok(Some(stream)) => stream,
        Ok(None) | Err(Error::Malformed(_)) => return Err(no_range()),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    if stream.start == size - 4 && stream.size == size {
        while let Some(piece) = stream.next().await? {
            bytes.extend_from_slice(&piece);
        }
    }
    if bytes != b"abcd" {
        return Err(no_range());
    }
    client.remove(key).await?;
    match client.size(key).await? {
        None => Ok(()),
        Some(_) => Err(lacks("what was removed is still there")),
    }
}
