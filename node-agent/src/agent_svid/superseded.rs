//! When the agent's SVID is not the one that counts any more.
//!
//! Responsible for: replacing an SVID before it is due when servers accept only another of this
//! agent. That comes of asking two servers, each of which issued one: the later counts, and the
//! earlier may be the one that arrived. Always holds: pauses grow while it happens again and again,
//! so that two machines with one identity do not chase each other. Not here: how it is replaced.

use std::time::Duration;

use mintmark_identity::clock::Timestamp;
use mintmark_runtime::backoff::Backoff;
use tokio::sync::watch;

/// The first pause before an SVID is replaced, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What was heard, and when it is acted upon.
#[derive(Debug)]
pub struct Superseded {
    heard: watch::Receiver<u64>,
    pauses: Backoff,
    due: Option<(u64, Timestamp)>,
}

impl Superseded {
    /// Hears the number of an identity that servers do not accept.
    #[must_use]
    pub const fn new(heard: watch::Receiver<u64>) -> Self {
        Self {
            heard,
            pauses: Backoff::new(PAUSE, PAUSE_MAX),
            due: None,
        }
    }

    /// Waits for news; for ever when the stream of updates has ended and there will be none.
    pub async fn changed(&mut self) {
        if self.heard.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// When this identity is to be replaced, if servers do not accept it.
    pub fn replace_at(&mut self, identity: u64, now: Timestamp, draw: u64) -> Option<Timestamp> {
        if identity == 0 || *self.heard.borrow_and_update() != identity {
            return None;
        }
        let due = self.due.filter(|(of, _)| *of == identity);
        let (_, at) = *self.due.insert(due.unwrap_or_else(|| {
            let pause = self.pauses.next_delay(draw);
            (identity, now.saturating_add(pause))
        }));
        Some(at)
    }

    /// An SVID is replaced for another reason: it lived as long as it should.
    pub const fn forget(&mut self) {
        self.pauses.reset();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    #[test]
    fn only_the_identity_that_was_named_is_replaced() {
        let (tell, heard) = watch::channel(0);
        let mut superseded = Superseded::new(heard);
        assert_eq!(superseded.replace_at(0, at(0), 0), None, "there is none");
        assert_eq!(superseded.replace_at(1, at(0), 0), None);
        tell.send(1).unwrap();
        assert_eq!(superseded.replace_at(1, at(0), 0), Some(at(250)));
        assert_eq!(
            superseded.replace_at(1, at(9), 7),
            Some(at(250)),
            "it stays"
        );
        assert_eq!(superseded.replace_at(2, at(9), 0), None);
    }

    #[test]
    fn pauses_grow_until_an_svid_lives_as_long_as_it_should() {
        let (tell, heard) = watch::channel(0);
        let mut superseded = Superseded::new(heard);
        let pause = |superseded: &mut Superseded, identity| {
            tell.send(identity).unwrap();
            superseded.replace_at(identity, at(0), 0)
        };
        let pauses: Vec<_> = (1..=3)
            .map(|n| pause(&mut superseded, n).unwrap())
            .collect();
        assert_eq!(pauses, [at(250), at(500), at(1_000)]);
        superseded.forget();
        assert_eq!(pause(&mut superseded, 4), Some(at(250)));
        for identity in 5..20 {
            assert!(pause(&mut superseded, identity).unwrap() <= at(60_000));
        }
    }
}
