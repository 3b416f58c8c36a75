//! A registration entry as people and scripts write it (JSON, YAML), and what is printed of one.
//!
//! The same shape is read and written, so `entry list -o json` can be edited and given back. Selectors
//! may be text (`unix:uid:1000`) or objects (`{type, value}`), and a file may be one entry, a list, or
//! `{entries: […]}`, which is the shape that SPIRE's files have.

use mintmark_identity::clock::Timestamp;
use mintmark_identity::selector::Selector;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::spire::types;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::output::Row;

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryDocument {
    /// Identifier; chosen by the server when empty.
    #[serde(default, alias = "entry_id")]
    pub id: String,
    /// The identity it gives.
    pub spiffe_id: String,
    /// The agent, node alias or server it hangs under.
    pub parent_id: String,
    /// What a workload must have, all of it.
    pub selectors: Vec<SelectorDocument>,
    /// Lifetime of X.509-SVIDs in seconds; 0: the cluster's.
    #[serde(default)]
    pub x509_svid_ttl: u32,
    /// Lifetime of JWT-SVIDs in seconds; 0: the cluster's.
    #[serde(default)]
    pub jwt_svid_ttl: u32,
    /// Trust domains whose bundles the workload gets.
    #[serde(default)]
    pub federates_with: Vec<String>,
    /// The identity may administer the cluster.
    #[serde(default)]
    pub admin: bool,
    /// The identity may run a downstream cluster.
    #[serde(default)]
    pub downstream: bool,
    /// DNS names of the X.509-SVID.
    #[serde(default)]
    pub dns_names: Vec<String>,
    /// Tells SVIDs of one workload apart.
    #[serde(default)]
    pub hint: String,
    /// The agent stores the SVID instead of serving it.
    #[serde(default)]
    pub store_svid: bool,
    /// When the entry goes away, seconds since 1970; 0: never.
    #[serde(default, alias = "entry_expiry")]
    pub expires_at: i64,
    /// The agent issues on demand only.
    #[serde(default)]
    pub disable_x509_svid_prefetch: bool,
    /// JWT-SVIDs carry a `jti`.
    #[serde(default)]
    pub jwt_svid_include_jti: bool,
    /// Counts changes; not read.
    #[serde(default, alias = "revision_number")]
    pub revision: i64,
    /// When it was made, seconds since 1970; not read.
    #[serde(default)]
    pub created_at: i64,
}

/// A selector, as text or as an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SelectorDocument {
    /// `kind:value`.
    Text(String),
    /// As SPIRE's files have it.
    Object {
        /// Kind, such as `unix`.
        #[serde(rename = "type")]
        kind: String,
        /// Value, such as `uid:1000`.
        value: String,
    },
}

impl SelectorDocument {
    fn parse(&self) -> Result<Selector, Failure> {
        let parsed = match self {
            Self::Text(text) => text.parse::<Selector>(),
            Self::Object { kind, value } => Selector::new(kind, value),
        };
        parsed.map_err(|e| {
            Failure::new("MM-3202", Exit::Usage, "a selector is wrong")
                .because(&e)
                .next("write kind:value, such as unix:uid:1000")
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Wrapped { entries: Vec<EntryDocument> },
    List(Vec<EntryDocument>),
    One(Box<EntryDocument>),
}

/// Reads entries from JSON or YAML text.
pub fn read(name: &str, text: &str) -> Result<Vec<EntryDocument>, Failure> {
    let wrong = |e: &dyn std::error::Error| {
        Failure::new(
            "MM-3201",
            Exit::Usage,
            format!("{name} holds no entries that can be read"),
        )
        .because(e)
        .next("see `mintmark entry list -o yaml` for the shape")
    };
    // YAML contains JSON, but a JSON parser gives better errors for JSON.
    let file: File = if text.trim_start().starts_with(['{', '[']) {
        serde_json::from_str(text).map_err(|e| wrong(&e))?
    } else {
        serde_saphyr::from_str(text).map_err(|e| wrong(&e))?
    };
    Ok(match file {
        File::Wrapped { entries } | File::List(entries) => entries,
        File::One(entry) => vec![*entry],
    })
}

impl EntryDocument {
    /// As it goes over the wire. What can be checked here is checked here.
    pub fn to_wire(&self) -> Result<types::Entry, Failure> {
        let mut selectors = Vec::with_capacity(self.selectors.len());
        for selector in &self.selectors {
            let selector = selector.parse()?;
            selectors.push(types::Selector {
                r#type: selector.kind().to_owned(),
                value: selector.value().to_owned(),
            });
        }
        Ok(types::Entry {
            id: self.id.clone(),
            spiffe_id: Some(spiffe_id("spiffe_id", &self.spiffe_id)?),
            parent_id: Some(spiffe_id("parent_id", &self.parent_id)?),
            selectors,
            x509_svid_ttl: seconds("x509_svid_ttl", self.x509_svid_ttl)?,
            jwt_svid_ttl: seconds("jwt_svid_ttl", self.jwt_svid_ttl)?,
            federates_with: self.federates_with.clone(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.expires_at,
            dns_names: self.dns_names.clone(),
            store_svid: self.store_svid,
            hint: self.hint.clone(),
            additional_attributes: Some(types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
                jwt_svid_include_jti: self.jwt_svid_include_jti,
            }),
            ..types::Entry::default()
        })
    }

    /// From the wire.
    pub fn from_wire(entry: &types::Entry) -> Self {
        let id = |id: &Option<types::Spiffeid>| id.as_ref().map(spiffe_id_text).unwrap_or_default();
        let attributes = entry.additional_attributes.unwrap_or_default();
        Self {
            id: entry.id.clone(),
            spiffe_id: id(&entry.spiffe_id),
            parent_id: id(&entry.parent_id),
            selectors: entry
                .selectors
                .iter()
                .map(|s| SelectorDocument::Text(format!("{}:{}", s.r#type, s.value)))
                .collect(),
            x509_svid_ttl: u32::try_from(entry.x509_svid_ttl).unwrap_or(0),
            jwt_svid_ttl: u32::try_from(entry.jwt_svid_ttl).unwrap_or(0),
            federates_with: entry.federates_with.clone(),
            admin: entry.admin,
            downstream: entry.downstream,
            dns_names: entry.dns_names.clone(),
            hint: entry.hint.clone(),
            store_svid: entry.store_svid,
            expires_at: entry.expires_at,
            revision: entry.revision_number,
            created_at: entry.created_at,
            disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
            jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        }
    }

    fn selectors_text(&self) -> String {
        let texts: Vec<String> = self
            .selectors
            .iter()
            .map(|s| match s {
                SelectorDocument::Text(text) => text.clone(),
                SelectorDocument::Object { kind, value } => format!("{kind}:{value}"),
            })
            .collect();
        texts.join(",")
    }

    /// Names and values for people.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("id", self.id.clone()),
            ("spiffe id", self.spiffe_id.clone()),
            ("parent id", self.parent_id.clone()),
            ("selectors", self.selectors_text().replace(',', "\n")),
            ("revision", self.revision.to_string()),
            ("x509 ttl", ttl(self.x509_svid_ttl)),
            ("jwt ttl", ttl(self.jwt_svid_ttl)),
            ("created", time(self.created_at)),
        ];
        let optional = [
            (
                "expires",
                if self.expires_at == 0 {
                    String::new()
                } else {
                    time(self.expires_at)
                },
            ),
            ("dns names", self.dns_names.join("\n")),
            ("federates with", self.federates_with.join("\n")),
            ("hint", self.hint.clone()),
            ("admin", yes(self.admin)),
            ("downstream", yes(self.downstream)),
            ("store svid", yes(self.store_svid)),
            ("no prefetch", yes(self.disable_x509_svid_prefetch)),
            ("jwt with jti", yes(self.jwt_svid_include_jti)),
        ];
        fields.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
        fields
    }
}

impl Row for EntryDocument {
    fn titles(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["ID", "SPIFFE ID", "SELECTORS"];
        if wide {
            titles.extend(["PARENT", "X509 TTL", "JWT TTL", "REVISION", "CREATED"]);
        }
        titles
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let mut cells = vec![
            self.id.clone(),
            self.spiffe_id.clone(),
            self.selectors_text(),
        ];
        if wide {
            cells.extend([
                self.parent_id.clone(),
                ttl(self.x509_svid_ttl),
                ttl(self.jwt_svid_ttl),
                self.revision.to_string(),
                time(self.created_at),
            ]);
        }
        cells
    }
}

/// A SPIFFE ID for the wire.
pub fn spiffe_id(field: &str, text: &str) -> Result<types::Spiffeid, Failure> {
    let parsed: SpiffeId = text.parse().map_err(|e| {
        Failure::new(
            "MM-3203",
            Exit::Usage,
            format!("{field} is not a SPIFFE ID: `{text}`"),
        )
        .because(&e)
        .next("write spiffe://<trust domain>/<path>")
    })?;
    Ok(types::Spiffeid {
        trust_domain: parsed.trust_domain().as_str().to_owned(),
        path: parsed.path().to_owned(),
    })
}

/// A SPIFFE ID from the wire.
pub fn spiffe_id_text(id: &types::Spiffeid) -> String {
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

fn seconds(field: &str, value: u32) -> Result<i32, Failure> {
    i32::try_from(value).map_err(|e| {
        Failure::new("MM-3204", Exit::Usage, format!("{field} is too long")).because(&e)
    })
}

fn yes(is: bool) -> String {
    if is { "yes".to_owned() } else { String::new() }
}

fn ttl(seconds: u32) -> String {
    if seconds == 0 {
        "default".to_owned()
    } else {
        format!("{seconds}s")
    }
}

fn time(unix_seconds: i64) -> String {
    Timestamp::from_unix_secs(unix_seconds).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"spiffe_id": "spiffe://example.org/web", "parent_id": "spiffe://example.org/node",
        "selectors": [{"type": "unix", "value": "uid:1000"}, "unix:gid:5"], "x509_svid_ttl": 60}"#;

    #[test]
    fn one_entry_a_list_and_the_wrapped_shape_read_alike() {
        let one = read("one", ONE).unwrap();
        assert_eq!(read("list", &format!("[{ONE}]")).unwrap(), one);
        assert_eq!(
            read("wrapped", &format!("{{\"entries\": [{ONE}]}}")).unwrap(),
            one
        );
        let yaml = "entries:\n- spiffe_id: spiffe://example.org/web\n  parent_id: spiffe://example.org/node\n  \
                    selectors:\n  - {type: unix, value: 'uid:1000'}\n  - unix:gid:5\n  x509_svid_ttl: 60\n";
        assert_eq!(read("yaml", yaml).unwrap(), one);
    }

    #[test]
    fn what_is_printed_can_be_given_back() {
        let wire = read("one", ONE).unwrap().remove(0).to_wire().unwrap();
        let document = EntryDocument::from_wire(&wire);
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(
            read("again", &text).unwrap().remove(0).to_wire().unwrap(),
            wire
        );
    }

    #[test]
    fn additional_attributes_are_sent_and_shown() {
        for (prefetch, jti) in [(true, false), (false, true), (true, true)] {
            let text = ONE.replacen(
                '{',
                &format!(
                    "{{\"disable_x509_svid_prefetch\": {prefetch}, \"jwt_svid_include_jti\": {jti}, "
                ),
                1,
            );
            let wire = read("one", &text).unwrap().remove(0).to_wire().unwrap();
            let sent = wire.additional_attributes.unwrap();
            assert_eq!(sent.disable_x509_svid_prefetch, prefetch);
            assert_eq!(sent.jwt_svid_include_jti, jti);
            let shown = EntryDocument::from_wire(&wire);
            assert_eq!(shown.to_wire().unwrap(), wire);
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let unknown = ONE.replace("x509_svid_ttl", "x509_ttl");
        assert!(read("f", &unknown).is_err());
        let id = ONE.replace("spiffe://example.org/web", "http://example.org/web");
        let failure = read("f", &id).unwrap().remove(0).to_wire().unwrap_err();
        assert!(
            failure.to_string().contains("spiffe_id is not a SPIFFE ID"),
            "{failure}"
        );
        let selector = ONE.replace("unix:gid:5", "nothing");
        assert!(read("f", &selector).unwrap().remove(0).to_wire().is_err());
        assert!(read("f", "").is_err());
        assert!(read("f", "[{]").is_err());
    }
}
