//! Large answers: eight connections, each reading a whole blob with large reads, and the server's CPU from `/proc`.
//!
//! Blocking threads on purpose: a client that spends little leaves the machine to the server, and what an async runtime costs would
//! be measured with it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::mirror::process::cpu;

const CONNECTIONS: usize = 8;
/// Whole blobs over each connection.
const EACH: usize = 2;
const READ: usize = 256 << 10;

pub(super) struct Sent {
    /// MiB/s over all connections.
    pub(super) throughput: f64,
    /// Seconds of the server's CPU for each GiB.
    pub(super) cpu: f64,
}

/// Reads `target` over eight connections. `pids` are all of the server's processes.
pub(super) fn measure(address: SocketAddr, target: &str, pids: &[u32]) -> Result<Sent, String> {
    let spent = || pids.iter().filter_map(|pid| cpu(*pid)).sum::<Duration>();
    let (before, start) = (spent(), Instant::now());
    let total: Result<u64, String> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| read(address, target))).collect();
        readers.into_iter().map(|reader| reader.join().map_err(|_| "a reader panicked".to_owned())?).sum()
    });
    let (total, took) = (total? as f64, start.elapsed().as_secs_f64());
    let cpu = (spent() - before).as_secs_f64();
    Ok(Sent { throughput: total / f64::from(1 << 20) / took, cpu: cpu / (total / f64::from(1 << 30)) })
}

fn read(address: SocketAddr, target: &str) -> Result<u64, String> {
    let broke = |e: std::io::Error| format!("{address}: {e}");
    let mut stream = TcpStream::connect(address).map_err(broke)?;
    stream.set_nodelay(true).map_err(broke)?;
    let mut buffer = vec![0; READ];
    let mut total = 0;
    for _ in 0..EACH {
        write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n").map_err(broke)?;
        let mut head = Vec::new();
        let (length, mut got) = loop {
            let came = stream.read(&mut buffer[..8192]).map_err(broke)?;
            if came == 0 {
                return Err(format!("{address} closed before an answer"));
            }
            head.extend_from_slice(&buffer[..came]);
            if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                let parsed = crate::client::Head::parse(&head[..end + 4]).map_err(|e| e.to_string())?;
                let length = parsed.content_length().filter(|_| parsed.status == 200);
                break (length.ok_or_else(|| format!("{address}: {}", parsed.status))?, (head.len() - end - 4) as u64);
            }
        };
        while got < length {
            let came = stream.read(&mut buffer).map_err(broke)? as u64;
            if came == 0 {
                return Err(format!("{address} closed after {got} of {length} bytes"));
            }
            got += came;
        }
        total += got;
    }
    Ok(total)
}
