//! Why no order explains a history, for a person to read.
//!
//! Responsible for: the counter-example of a check: the shortest beginning of the history that
//! cannot be explained, the longest order that explains most of it, and what cannot come next.
//! Always holds: the text depends on the history alone.
//! Not here: finding it (`checker`).

use std::fmt::{self, Display, Write as _};

use super::checker::Stuck;
use super::history::{Call, Ending, History, Moment};
use super::{Model, Window};

/// Widest picture of when calls were under way, in columns.
const PICTURE_MAX: usize = 72;

/// Calls that the text shows; the last ones are those that matter.
const SHOWN_MAX: usize = 60;

/// A history that no order explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// How many calls the shown beginning of the history has.
    pub calls: usize,
    /// The calls of the longest order that explains a part.
    pub order: Vec<usize>,
    /// The calls that were to be placed next, and could not.
    pub impossible: Vec<usize>,
    text: String,
}

impl Violation {
    pub(super) fn new<M: Model>(
        model: &M,
        history: &History<M::Op, M::Outcome>,
        stuck: &Stuck<M::State>,
    ) -> Self {
        let impossible = impossible(model, history, stuck);
        let mut violation = Self {
            calls: history.len(),
            order: stuck.order.clone(),
            impossible,
            text: String::new(),
        };
        // Writing to a string does not fail.
        let _ = violation.write::<M>(history, &stuck.state);
        violation
    }

    fn write<M: Model>(
        &mut self,
        history: &History<M::Op, M::Outcome>,
        state: &M::State,
    ) -> fmt::Result {
        let mut text = format!(
            "no order of these {} calls explains what was seen\n",
            self.calls
        );
        let picture = Picture::of(history);
        let hidden = self.calls.saturating_sub(SHOWN_MAX);
        if hidden > 0 {
            writeln!(text, "  ({hidden} earlier calls are not shown)")?;
        }
        for (n, call) in history.calls().iter().enumerate().skip(hidden) {
            writeln!(text, "  {}", line(n, call, &picture))?;
        }
        let shown = self.order.len().saturating_sub(SHOWN_MAX);
        let order: Vec<String> = self.order[shown..]
            .iter()
            .map(|n| format!("#{n}"))
            .collect();
        let dots = if shown > 0 { "… " } else { "" };
        writeln!(
            text,
            "the longest order that fits: {dots}{}",
            order.join(" ")
        )?;
        writeln!(text, "it leads to: {state:?}")?;
        for n in &self.impossible {
            let call = &history.calls()[*n];
            writeln!(text, "there #{n} cannot be: {}", said(call))?;
        }
        self.text = text;
        Ok(())
    }
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The answered calls that real time allows next, and the model does not.
fn impossible<M: Model>(
    model: &M,
    history: &History<M::Op, M::Outcome>,
    stuck: &Stuck<M::State>,
) -> Vec<usize> {
    let open: Vec<usize> = (0..history.len())
        .filter(|n| !stuck.order.contains(n) && history.calls()[*n].outcome().is_some())
        .collect();
    let limit = open.iter().map(|n| history.calls()[*n].returned()).min();
    let limit = limit.unwrap_or(Moment::NEVER);
    let placed = stuck.order.iter().map(|n| history.calls()[*n].invoked.at);
    let earliest = placed.max().unwrap_or(0);
    let refused = open.into_iter().filter(|n| {
        let call = &history.calls()[*n];
        let window = Window {
            earliest: earliest.max(call.invoked.at),
            latest: limit.at,
        };
        call.invoked <= limit
            && model
                .step(&stuck.state, &call.op, call.outcome(), window)
                .is_empty()
    });
    refused.collect()
}

fn line<O: fmt::Debug, R: fmt::Debug>(n: usize, call: &Call<O, R>, picture: &Picture) -> String {
    let end = match &call.ending {
        Ending::Answered(at, _) | Ending::Failed(at) => at.at.to_string(),
        Ending::Unknown => "?".to_owned(),
    };
    let bar = picture.bar(call);
    let (process, begin) = (call.process, call.invoked.at);
    format!(
        "#{n:<3} p{process:<3} {bar} {begin:>12} .. {end:<12} {}",
        said(call)
    )
}

fn said<O: fmt::Debug, R: fmt::Debug>(call: &Call<O, R>) -> String {
    match &call.ending {
        Ending::Answered(_, outcome) => format!("{:?} -> {outcome:?}", call.op),
        Ending::Failed(_) => format!("{:?} -> (failed, no effect)", call.op),
        Ending::Unknown => format!("{:?} -> (unknown)", call.op),
    }
}

/// Columns for moments, if there are few enough.
struct Picture {
    moments: Vec<Moment>,
}

impl Picture {
    fn of<O, R>(history: &History<O, R>) -> Self {
        let mut moments = Vec::new();
        for call in history.calls() {
            moments.push(call.invoked);
            if let Ending::Answered(at, _) | Ending::Failed(at) = &call.ending {
                moments.push(*at);
            }
        }
        moments.sort_unstable();
        if moments.len() > PICTURE_MAX {
            moments.clear();
        }
        Self { moments }
    }

    fn bar<O, R>(&self, call: &Call<O, R>) -> String {
        if self.moments.is_empty() {
            return String::new();
        }
        let end = match &call.ending {
            Ending::Answered(at, _) | Ending::Failed(at) => *at,
            Ending::Unknown => Moment::NEVER,
        };
        let column = |moment: &Moment| match moment {
            at if *at == call.invoked => '[',
            at if *at == end => ']',
            at if *at > call.invoked && *at < end => '-',
            _ => ' ',
        };
        self.moments.iter().map(column).collect()
    }
}
