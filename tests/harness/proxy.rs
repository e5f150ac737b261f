//! A TCP proxy that does to connections what networks do: delays, cuts, silence, garbage.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How much is passed on at once.
const CHUNK: usize = 16 << 10;

/// What is done to connections; without any, everything is passed on as it comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Everything arrives this much later, in both directions.
    pub latency: Duration,
    /// How much a connection carries in each direction.
    pub bytes_per_second: Option<usize>,
    /// Which connections are cut, and when.
    pub cut: Option<Cut>,
    /// Whether connections stay open and carry nothing.
    pub silence: Option<Silence>,
    /// What happens to the bytes.
    pub garbage: Option<Garbage>,
    /// Nobody listens: new connections are refused.
    pub refuse: bool,
}

/// Every `every`th connection is cut once it has carried `after` bytes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// One in how many.
    pub every: usize,
    /// After how many bytes towards the client; 0 is at once.
    pub after: usize,
}

/// What an open connection does that carries nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// It takes what is sent and drops it.
    Swallow,
    /// It takes nothing more; what is under way arrives when the silence ends.
    Stall,
}

/// What becomes of one in so many bytes towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Garbage {
    /// It has other bits.
    Flip(usize),
    /// A byte that nobody sent stands before it.
    Insert(usize),
}

/// A proxy in front of something; everything through it is cut when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// The host and port to use instead of the target's.
    pub host: String,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<String>,
    faults: watch::Sender<Faults>,
    /// Counts up when everything that is open is to be cut.
    cuts: watch::Sender<usize>,
    accepted: AtomicUsize,
    bytes: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Proxy {
    /// Starts one in front of a host and port.
    pub fn between(target: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target.to_owned()),
            faults: watch::Sender::default(),
            cuts: watch::Sender::default(),
            accepted: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            requests: Mutex::default(),
        });
        let address = runtime.block_on(async {
            let listener = listen("127.0.0.1:0".parse().unwrap());
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(shared.clone(), listener, address));
            address
        });
        Self {
            host: address.to_string(),
            shared,
            runtime: Some(runtime),
        }
    }

    /// Does this from now on, to open connections too.
    pub fn set(&self, faults: Faults) {
        self.shared.faults.send_replace(faults);
    }

    /// Passes everything on again; what was cut stays so.
    pub fn heal(&self) {
        self.set(Faults::default());
    }

    /// Cuts everything that is open.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Sends new connections to another place.
    pub fn retarget(&self, target: &str) {
        target.clone_into(&mut self.shared.target.lock().unwrap());
    }

    /// Returns how many connections there have been.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Returns what was asked for by HTTP/1.1, as in `GET /token?service=x`, in its order.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Returns how many bytes have been passed on, in both directions.
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1_024).unwrap()
}

/// Accepts; while nobody is to listen, the port is closed.
async fn serve(shared: Arc<Shared>, listener: TcpListener, address: SocketAddr) {
    let mut faults = shared.faults.subscribe();
    let mut listener = Some(listener);
    loop {
        if faults.borrow_and_update().refuse {
            listener = None;
            if faults.wait_for(|faults| !faults.refuse).await.is_err() {
                return;
            }
        }
        let open = listener.get_or_insert_with(|| listen(address));
        tokio::select! {
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                let number = shared.accepted.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::spawn(carry(shared.clone(), client, number));
            },
            changed = faults.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Carries one connection until both of its ends have closed it, or it is cut.
async fn carry(shared: Arc<Shared>, mut client: TcpStream, number: usize) {
    let mut cuts = shared.cuts.subscribe();
    let before = *cuts.borrow_and_update();
    let cut = shared.faults.borrow().cut;
    let limit = cut
        .filter(|cut| number.is_multiple_of(cut.every))
        .map(|cut| cut.after);
    let target = shared.target.lock().unwrap().clone();
    let server = if limit == Some(0) {
        None
    } else {
        TcpStream::connect(target).await.ok()
    };
    // Nobody behind the proxy looks as a connection that is cut at once.
    let Some(mut server) = server else {
        client.set_zero_linger().unwrap();
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let ended = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let both = async {
            tokio::try_join!(
                pass(&shared, from_client, to_server, Direction::Up),
                pass(&shared, from_server, to_client, Direction::Down(limit)),
            )
        };
        tokio::select! {
            ended = both => ended.map(drop),
            _ = cuts.wait_for(|cuts| *cuts > before) => Err(Broken),
        }
    };
    if ended.is_err() {
        client.set_zero_linger().ok();
        server.set_zero_linger().ok();
    }
}

/// A connection that did not end in order.
struct Broken;

enum Direction {
    Up,
    Down(Option<usize>),
}

/// Passes one direction on until its source closes it.
async fn pass(
    shared: &Shared,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
) -> Result<(), Broken> {
    let mut faults = shared.faults.subscribe();
    let (mut buffer, mut carried) = (vec![0; CHUNK], 0);
    let loud = |now: &Faults| now.silence != Some(Silence::Stall);
    loop {
        faults.wait_for(loud).await.map_err(|_| Broken)?;
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.map_err(|_| Broken)?,
            changed = faults.changed() => { changed.map_err(|_| Broken)?; continue; }
        };
        let now = *faults.borrow();
        if read == 0 {
            faults
                .wait_for(|now| now.silence.is_none())
                .await
                .map_err(|_| Broken)?;
            return to.shutdown().await.map_err(|_| Broken);
        }
        let rate = now.bytes_per_second.map(|rate| read as f64 / rate as f64);
        let wait = now.latency + Duration::from_secs_f64(rate.unwrap_or_default());
        tokio::time::sleep(wait).await;
        faults.wait_for(loud).await.map_err(|_| Broken)?;
        if faults.borrow().silence == Some(Silence::Swallow) {
            continue;
        }
        let mut bytes = buffer[..read].to_vec();
        if let Direction::Down(limit) = direction {
            if let Some(garbage) = now.garbage {
                bytes = spoil(&bytes, carried, garbage);
            }
            bytes.truncate(limit.map_or(usize::MAX, |limit| limit.saturating_sub(carried)));
            carried += bytes.len();
            to.write_all(&bytes).await.map_err(|_| Broken)?;
            if limit.is_some_and(|limit| carried >= limit) {
                // What was carried must arrive before the end does.
                to.flush().await.ok();
                return Err(Broken);
            }
        } else {
            if let Some(request) = request_of(&bytes) {
                shared.requests.lock().unwrap().push(request);
            }
            to.write_all(&bytes).await.map_err(|_| Broken)?;
        }
        shared.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
    }
}

/// Returns method and path of a request that begins here: a client that waits for each answer sends no two at once.
fn request_of(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_suffix(" HTTP/1.1").map(str::to_owned)
}

/// Spoils one in so many bytes of what follows `before` others.
fn spoil(bytes: &[u8], before: usize, garbage: Garbage) -> Vec<u8> {
    let mut spoiled = Vec::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        let is_due = |every: usize| (before + at + 1).is_multiple_of(every);
        match garbage {
            Garbage::Flip(every) if is_due(every) => spoiled.push(byte ^ 0x5a),
            Garbage::Insert(every) if is_due(every) => spoiled.extend([0xff, *byte]),
            _ => spoiled.push(*byte),
        }
    }
    spoiled
}

#[cfg(test)]
mod tests;
