#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Mutex;

use mintmark_identity::entropy::SeededEntropy;
use mintmark_runtime::task::Tasks;
use tokio::sync::watch;

use super::*;
use crate::audit::tail::fake::FakeLog;

/// What a recording sink got, and how it is told to behave.
#[derive(Debug)]
struct Record {
    got: watch::Sender<Vec<u64>>,
    fail: Mutex<u32>,
    start: Resumption,
    resumed: watch::Sender<u32>,
}

#[derive(Debug, Clone)]
struct Recorder(Arc<Record>);

impl Recorder {
    fn new(start: Resumption) -> Self {
        Self(Arc::new(Record {
            got: watch::Sender::new(Vec::new()),
            fail: Mutex::new(0),
            start,
            resumed: watch::Sender::new(0),
        }))
    }

    async fn has(&self, count: usize) -> Vec<u64> {
        let mut got = self.0.got.subscribe();
        got.wait_for(|got| got.len() >= count)
            .await
            .unwrap()
            .clone()
    }
}

#[async_trait]
impl AuditSink for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    async fn resume(&mut self, origin: &str) -> Result<Resumption, SinkError> {
        assert_eq!(origin, "example.org/audit/1");
        self.0.resumed.send_modify(|count| *count += 1);
        let next = self
            .0
            .got
            .borrow()
            .last()
            .map_or(self.0.start.next, |last| last + 1);
        Ok(Resumption {
            next,
            last: self.0.start.last.clone(),
        })
    }

    async fn deliver(&mut self, leaves: Vec<SinkLeaf>) -> Result<(), SinkError> {
        assert!(leaves.len() as u64 <= BATCH_LEAVES_MAX);
        {
            let mut fail = self.0.fail.lock().unwrap();
            if *fail > 0 {
                *fail -= 1;
                let source = "no".into();
                return Err(SinkError::Failed {
                    what: "recorder".into(),
                    source,
                });
            }
        }
        self.0
            .got
            .send_modify(|got| got.extend(leaves.iter().map(|leaf| leaf.index)));
        Ok(())
    }
}

struct Running {
    tasks: Tasks,
    metrics: SinkMetrics,
    lag: Gauge,
    failures: Counter,
}

fn start(leaves: &Arc<FakeLog>, sink: &Recorder) -> Running {
    let (tasks, metrics) = (Tasks::new(), SinkMetrics::default());
    let leaves: Arc<dyn CommittedLeaves> = Arc::<FakeLog>::clone(leaves);
    let entropy = Arc::new(SeededEntropy::new(1));
    let task = SinkTask::new(leaves, Box::new(sink.clone()), entropy, &metrics);
    let (lag, failures) = (task.lag.clone(), task.failures.clone());
    tasks.spawn("sink", task.run(tasks.token()));
    Running {
        tasks,
        metrics,
        lag,
        failures,
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_gets_every_leaf_once_and_in_order() {
    let leaves = FakeLog::new(BATCH_LEAVES_MAX + 5);
    let sink = Recorder::new(Resumption::default());
    let running = start(&leaves, &sink);
    let count = usize::try_from(BATCH_LEAVES_MAX).unwrap() + 5;
    sink.has(count).await;
    leaves.append(2);
    let got = sink.has(count + 2).await;
    assert!(got.iter().copied().eq(0..BATCH_LEAVES_MAX + 7), "{got:?}");
    assert!(
        running
            .tasks
            .shutdown(Duration::from_secs(1))
            .await
            .is_empty()
    );
    assert_eq!(running.lag.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sink_goes_on_where_it_says() {
    let leaves = FakeLog::new(5);
    let sink = Recorder::new(Resumption {
        next: 3,
        last: None,
    });
    let running = start(&leaves, &sink);
    assert_eq!(sink.has(2).await, [3, 4]);
    running.tasks.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_is_asked_again_where_it_is_and_shows_its_lag() {
    let leaves = FakeLog::new(3);
    let sink = Recorder::new(Resumption::default());
    *sink.0.fail.lock().unwrap() = 4;
    let running = start(&leaves, &sink);
    let began = tokio::time::Instant::now();
    assert_eq!(sink.has(3).await, [0, 1, 2]);
    assert!(began.elapsed() >= PAUSE, "it waits between attempts");
    assert_eq!(*sink.0.resumed.borrow(), 5);
    assert_eq!(running.failures.get(), 4);
    let mut registry = Registry::default();
    running.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(
        text.contains("audit_sink_lag_leaves{sink=\"recorder\"}"),
        "{text}"
    );
    running.tasks.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn lag_is_shown_while_a_sink_fails() {
    let leaves = FakeLog::new(7);
    let sink = Recorder::new(Resumption {
        next: 2,
        last: None,
    });
    *sink.0.fail.lock().unwrap() = u32::MAX;
    let running = start(&leaves, &sink);
    sink.0
        .resumed
        .subscribe()
        .wait_for(|count| *count == 3)
        .await
        .unwrap();
    assert_eq!(running.lag.get(), 5);
    assert!(
        running
            .tasks
            .shutdown(Duration::from_secs(1))
            .await
            .is_empty(),
        "it can be ended"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_has_another_log_gets_nothing() {
    let leaves = FakeLog::new(5);
    for (index, log_index, delivered) in [(2, 12, true), (2, 13, false), (3, 12, false)] {
        let time = "1970-01-01T00:00:01.002Z".to_owned();
        let last = Some(LastLeaf {
            index,
            log_index,
            time,
        });
        let sink = Recorder::new(Resumption {
            next: index + 1,
            last,
        });
        let running = start(&leaves, &sink);
        if delivered {
            assert_eq!(sink.has(2).await, [3, 4]);
        } else {
            sink.0
                .resumed
                .subscribe()
                .wait_for(|count| *count == 3)
                .await
                .unwrap();
            assert!(sink.0.got.borrow().is_empty());
        }
        running.tasks.shutdown(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_behind_its_sink_catches_up_first() {
    let leaves = FakeLog::new(1);
    let last = LastLeaf {
        index: 2,
        log_index: 12,
        time: "1970-01-01T00:00:01.002Z".into(),
    };
    let sink = Recorder::new(Resumption {
        next: 3,
        last: Some(last),
    });
    let running = start(&leaves, &sink);
    sink.0
        .resumed
        .subscribe()
        .wait_for(|count| *count == 1)
        .await
        .unwrap();
    leaves.append(3);
    assert_eq!(sink.has(1).await, [3]);
    assert_eq!(running.failures.get(), 0);
    running.tasks.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn leaves_that_are_being_fetched_are_waited_for() {
    let leaves = FakeLog::new(4);
    leaves.set_absent(Some(0));
    let sink = Recorder::new(Resumption::default());
    let running = start(&leaves, &sink);
    sink.0
        .resumed
        .subscribe()
        .wait_for(|count| *count == 2)
        .await
        .unwrap();
    leaves.set_absent(None);
    assert_eq!(sink.has(4).await, [0, 1, 2, 3]);
    running.tasks.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_before_the_log_has_a_name() {
    let leaves = FakeLog::new(0);
    let origin = leaves.origin.lock().unwrap().take();
    let sink = Recorder::new(Resumption::default());
    let running = start(&leaves, &sink);
    leaves.append(2);
    tokio::time::advance(PAUSE * 2).await;
    assert_eq!(*sink.0.resumed.borrow(), 0);
    *leaves.origin.lock().unwrap() = origin;
    assert_eq!(sink.has(2).await, [0, 1]);
    running.tasks.shutdown(Duration::from_secs(1)).await;
}
