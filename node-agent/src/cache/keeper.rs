//! Keeps the cache on disk, sealed, so that a restart serves the same SVIDs at once.
//!
//! Responsible for: reading the cache file at start, and following the state from then on by
//! appending what changed. Always holds: [`Keeper::kept`] never names a position before all
//! that leads up to it, denials above all, is durable or nothing stale is left on disk; a
//! damaged file costs its content and a warning, never the agent. Not here: what is in the
//! frames (`record`), the seal (`frames`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mintmark_identity::{
    clock::Timestamp,
    entropy::{draw_bytes, draw_u64},
    tls::SvidSource,
};
use mintmark_runtime::{
    Host,
    backoff::Backoff,
    disk,
    failpoint::{Step, reach},
};
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    Cache,
    frames::{self, KEY_LEN, Sealer},
    record::Frame,
    state::{Position, State},
};
use crate::{code, peer_tls::OwnSvid};

/// Below this size the file is never rewritten: it is read in an instant.
const COMPACT_MIN: usize = 1 << 20;
/// A file that has grown to this many times its content is rewritten.
const COMPACT_FACTOR: usize = 4;

/// Up to where the disk agrees with the cache, and the bundle that is served there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The position.
    pub position: Position,
    /// Sequence of the own bundle.
    pub bundle_sequence: u64,
}

impl Kept {
    fn of(state: &State) -> Option<Self> {
        let bundle_sequence = state.bundle_sequence;
        state.position.map(|position| Self {
            position,
            bundle_sequence,
        })
    }
}

/// Where the sealed cache is, and the key that opens it.
pub struct Place {
    /// The cache file.
    pub file: PathBuf,
    /// The cache key.
    pub key: Zeroizing<[u8; KEY_LEN]>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Reads the cache key, or makes one: 32 bytes in a file that only we may read. A key that
/// others could read is replaced, for what it sealed is no secret any more.
///
/// # Errors
/// When the key can neither be read nor written.
pub fn cache_key(host: &Host, path: &Path) -> io::Result<Zeroizing<[u8; KEY_LEN]>> {
    match host.disk.read(path).map(Zeroizing::new) {
        Ok(bytes) => match <[u8; KEY_LEN]>::try_from(bytes.as_slice()) {
            Ok(key) if host.disk.metadata_mode(path)? & 0o077 == 0 => {
                return Ok(Zeroizing::new(key));
            }
            Ok(_) => {
                tracing::warn!(path = %path.display(), "others could read the cache key: replacing it")
            }
            Err(_) => {
                tracing::warn!(path = %path.display(), "the cache key is malformed: replacing it")
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = path.parent() {
        host.disk.create_dir_all(parent, disk::MODE_DIRECTORY)?;
    }
    let key = Zeroizing::new(draw_bytes::<KEY_LEN>(host.entropy.as_ref()));
    host.disk
        .write_atomic(path, key.as_slice(), disk::MODE_SECRET)?;
    Ok(key)
}

/// The file as it stands on disk.
#[derive(Debug)]
struct Written {
    /// None when the file was read, not written: it is not continued but written anew under another
    /// salt, since what a crash tore off, or an older copy that came back, was sealed under the
    /// nonces that would come next.
    sealer: Option<Sealer>,
    length: usize,
    state: State,
}

/// Follows the cache with a file.
#[derive(Debug)]
pub struct Keeper {
    host: Host,
    place: Option<Place>,
    /// Whose cache it is; what is sealed for one agent does not open for another.
    agent: Option<String>,
    written: Option<Written>,
    kept: watch::Sender<Option<Kept>>,
    empty: State,
}

impl Keeper {
    /// A keeper without a file: what cannot be stored safely is not stored, and nothing stale
    /// can be left.
    #[must_use]
    pub fn without_file(host: Host, empty: State) -> Self {
        Self {
            host,
            place: None,
            agent: None,
            written: None,
            kept: watch::Sender::new(None),
            empty,
        }
    }

    /// Opens the file and returns what it held: the empty state when there is no file, it is
    /// damaged, or it was sealed for another agent than this.
    #[must_use]
    pub fn open(
        host: Host,
        place: Place,
        agent: Option<String>,
        empty: State,
        now: Timestamp,
    ) -> (Self, State) {
        let read = match &agent {
            Some(agent) => read(&host, &place, &context(&empty, agent), &empty, now),
            None => Ok(None),
        };
        let (written, state) = match read {
            Ok(Some(written)) => {
                let state = written.state.clone();
                (Some(written), state)
            }
            Ok(None) => (None, empty.clone()),
            Err(error) => {
                let error: &dyn std::error::Error = &*error;
                tracing::warn!(
                    code = %code::CACHE_DISCARDED, error, path = %place.file.display(),
                    "the sealed cache is discarded; workloads get new SVIDs"
                );
                remove(&host, &place.file);
                (None, empty.clone())
            }
        };
        let kept = watch::Sender::new(Kept::of(&state));
        (
            Self {
                host,
                place: Some(place),
                agent,
                written,
                kept,
                empty,
            },
            state,
        )
    }

    /// Follows the position up to which the disk agrees with the cache.
    #[must_use]
    pub fn kept(&self) -> watch::Receiver<Option<Kept>> {
        self.kept.subscribe()
    }

    /// Follows the cache until the token is cancelled, and writes what is left then. `own` tells
    /// which agent this is, once it is attested.
    pub async fn run(mut self, cache: Cache, own: OwnSvid, stop: CancellationToken) {
        let mut changes = cache.watch();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let state = Arc::clone(&changes.borrow_and_update());
            self.learn_agent(&own);
            let retry = match self.keep(&state).await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    tracing::error!(code = %code::DISK, %error, "the cache cannot be written");
                    Some(backoff.next_delay(draw_u64(self.host.entropy.as_ref())))
                }
            };
            let retry = async {
                match retry {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = retry => {}
                () = stop.cancelled() => {
                    let state = cache.current();
                    if let Err(error) = self.keep(&state).await {
                        tracing::error!(code = %code::DISK, %error, "the cache cannot be written");
                    }
                    return;
                }
            }
        }
    }

    fn learn_agent(&mut self, own: &OwnSvid) {
        if let Some(svid) = own.svid() {
            let agent = svid.spiffe_id().to_string();
            if self.agent.as_ref() != Some(&agent) {
                // The file, if there is one, is another agent's: it is written anew.
                self.written = None;
                self.agent = Some(agent);
            }
        }
    }

    /// Brings the file up to this state. When that is not possible the file is removed instead:
    /// no SVIDs after a restart are better than those that were taken back.
    async fn keep(&mut self, state: &State) -> io::Result<()> {
        let Some(place) = &self.place else {
            self.kept.send_replace(Kept::of(state));
            return Ok(());
        };
        if state.denied.is_some() {
            self.written = None;
            remove_checked(&self.host, &place.file)?;
            reach(Step::DenialUncached);
            self.kept.send_replace(Kept::of(state));
            return Ok(());
        }
        let appended = match &mut self.written {
            Some(written) => append(&self.host, place, written, state).await,
            None => Ok(false),
        };
        let done = match appended {
            Ok(true) => Ok(()),
            Ok(false) => self.rewrite(state).await,
            Err(error) => {
                tracing::warn!(%error, "appending to the cache failed: writing it anew");
                self.rewrite(state).await
            }
        };
        if let Err(error) = done {
            self.written = None;
            if let Some(place) = &self.place {
                remove_checked(&self.host, &place.file)?;
            }
            tracing::warn!(code = %code::DISK, %error, "the cache is in memory only for now");
        }
        reach(Step::CacheKept);
        self.kept.send_replace(Kept::of(state));
        Ok(())
    }

    async fn rewrite(&mut self, state: &State) -> io::Result<()> {
        let (Some(place), Some(agent)) = (&self.place, &self.agent) else {
            return Ok(());
        };
        let salt = draw_bytes::<KEY_LEN>(self.host.entropy.as_ref());
        let context = context(&self.empty, agent);
        let mut sealer = Sealer::new(&place.key, salt, &context).map_err(io::Error::other)?;
        let mut file = sealer.header();
        if let Some(frame) = Frame::between(&self.empty, state) {
            let plain = Zeroizing::new(frame.encode_to_vec());
            file.extend(sealer.seal(&plain).map_err(io::Error::other)?);
        }
        let length = file.len();
        let (disk, path) = (Arc::clone(&self.host.disk), place.file.clone());
        let write = move || disk.write_atomic(&path, &file, disk::MODE_SECRET);
        self.written = None;
        reach(Step::CacheRewriting);
        self.host.disk.run(write).await??;
        reach(Step::CacheRewritten);
        self.written = Some(Written {
            sealer: Some(sealer),
            length,
            state: state.clone(),
        });
        Ok(())
    }
}

/// Appends what changed. Returns false when the file should be written anew instead.
async fn append(
    host: &Host,
    place: &Place,
    written: &mut Written,
    state: &State,
) -> io::Result<bool> {
    let Some(frame) = Frame::between(&written.state, state) else {
        written.state = state.clone();
        return Ok(true);
    };
    let plain = Zeroizing::new(frame.encode_to_vec());
    let live = content_size(state)
        .saturating_mul(COMPACT_FACTOR)
        .max(COMPACT_MIN);
    if written.length.saturating_add(plain.len()) > live {
        return Ok(false);
    }
    let Some(sealer) = &mut written.sealer else {
        return Ok(false);
    };
    let sealed = sealer.seal(&plain).map_err(io::Error::other)?;
    let length = written.length.saturating_add(sealed.len());
    let (disk, path) = (Arc::clone(&host.disk), place.file.clone());
    reach(Step::CacheSealed);
    host.disk.run(move || disk.append(&path, &sealed)).await??;
    reach(Step::CacheAppended);
    written.length = length;
    written.state = state.clone();
    Ok(true)
}

/// Roughly how many bytes the state needs.
fn content_size(state: &State) -> usize {
    state
        .svids
        .values()
        .map(|svid| {
            svid.chain
                .iter()
                .map(Vec::len)
                .sum::<usize>()
                .saturating_add(400)
        })
        .fold(
            state.entries.len().saturating_mul(300),
            usize::saturating_add,
        )
}

/// What seals a file to one agent.
fn context(empty: &State, agent: &str) -> Vec<u8> {
    format!("{}\0{agent}", empty.trust_domain).into_bytes()
}

type ReadError = Box<dyn std::error::Error + Send + Sync>;

fn read(
    host: &Host,
    place: &Place,
    context: &[u8],
    empty: &State,
    now: Timestamp,
) -> Result<Option<Written>, ReadError> {
    let file = match host.disk.read(&place.file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let opened = frames::open(&file, &place.key, context)?;
    let mut state = empty.clone();
    for frame in &opened.frames {
        Frame::replay(frame, &mut state, now)?;
    }
    if opened.torn {
        tracing::info!("the last piece of the cache was torn by a crash and is dropped");
    }
    Ok(Some(Written {
        sealer: None,
        length: file.len(),
        state,
    }))
}

fn remove(host: &Host, file: &Path) {
    if let Err(error) = remove_checked(host, file) {
        tracing::warn!(code = %code::DISK, %error, "the old cache cannot be removed");
    }
}

fn remove_checked(host: &Host, file: &Path) -> io::Result<()> {
    match host.disk.remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
