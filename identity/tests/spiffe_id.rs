//! The rules of SPIFFE-ID, one test per row of the conformance list and more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use mintmark_identity::spiffe_id::{SPIFFE_ID_MAX, SpiffeId, SpiffeIdError as E};
use mintmark_identity::trust_domain::TrustDomain;
use proptest::prelude::*;

fn parse(text: &str) -> Result<SpiffeId, E> {
    SpiffeId::parse(text)
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn refused(texts: &[&str], error: &E) {
    for text in texts {
        assert_eq!(parse(text).as_ref(), Err(error), "{text:?}");
    }
}

#[test]
fn id_01_scheme_is_spiffe_and_a_trust_domain_follows() {
    assert_eq!(parse("spiffe://example.org/a").unwrap().path(), "/a");
    refused(
        &[
            "",
            "s",
            "http://example.org/a",
            "spiffee://x/a",
            "spiffe:/example.org/a",
            "spiffe:example.org/a",
            "spiffe:/",
            "spiffe:path",
            "//example.org/a",
            "example.org/a",
            "://example.org/a",
            " spiffe://example.org/a",
            "\tspiffe://example.org/a",
            "\nspiffe://example.org/a",
        ],
        &E::WrongScheme,
    );
    refused(
        &["spiffe://", "spiffe:///a", "spiffe:///"],
        &E::MissingTrustDomain,
    );
    for after in [
        "spiffe://example.org/a ",
        "spiffe://example.org/a\t",
        "spiffe://example.org/a\n",
    ] {
        assert!(
            matches!(parse(after), Err(E::PathCharacter { .. })),
            "{after:?}"
        );
    }
}

/// Decision A-1: both spellings that RFC 3986 would fold are refused, not folded.
#[test]
fn id_01_upper_case_scheme_is_refused() {
    refused(
        &["SPIFFE://example.org/a", "Spiffe://example.org/a"],
        &E::WrongScheme,
    );
}

#[test]
fn id_02_query_and_fragment_are_refused_even_when_empty() {
    refused(
        &[
            "spiffe://example.org/a?x=1",
            "spiffe://example.org/a?",
            "spiffe://example.org?x",
        ],
        &E::Query,
    );
    refused(
        &[
            "spiffe://example.org/a#f",
            "spiffe://example.org/a#",
            "spiffe://example.org#",
            "spiffe://example.org/a?x#f",
        ],
        &E::Fragment,
    );
}

#[test]
fn id_03_host_is_not_empty() {
    refused(&["spiffe:///a", "spiffe://"], &E::MissingTrustDomain);
    refused(&["spiffe://:80/a"], &E::Port);
    refused(&["spiffe://user@/a"], &E::UserInfo);
}

/// Decision A-4: the bare delimiters are refused too.
#[test]
fn id_04_user_information_and_port_are_refused() {
    refused(
        &[
            "spiffe://user@example.org/a",
            "spiffe://@example.org/a",
            "spiffe://@/a",
        ],
        &E::UserInfo,
    );
    refused(
        &[
            "spiffe://example.org:8443/a",
            "spiffe://example.org:/a",
            "spiffe://192.168.2.2:6688",
        ],
        &E::Port,
    );
    // The colon comes first here; which of the two rules is named does not matter.
    refused(
        &[
            "spiffe://user:pw@example.org/a",
            "spiffe://:pw@example.org/a",
        ],
        &E::Port,
    );
}

#[test]
fn id_05_upper_case_host_is_refused() {
    refused(
        &[
            "spiffe://Example.org/a",
            "spiffe://example.orG",
            "spiffe://EXAMPLE.ORG/a",
        ],
        &E::TrustDomainUpperCase,
    );
    assert_eq!(
        TrustDomain::parse("Example.org"),
        Err(E::TrustDomainUpperCase)
    );
}

#[test]
fn id_06_host_characters_are_the_39_allowed_ones() {
    let mut allowed = 0;
    for code in 0..=0xFF_u32 {
        let c = char::from_u32(code).unwrap();
        if c == '/' {
            continue;
        }
        let good = matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
        allowed += usize::from(good);
        assert_eq!(parse(&format!("spiffe://td{c}/p")).is_ok(), good, "{c:?}");
        assert_eq!(TrustDomain::parse(&format!("td{c}")).is_ok(), good, "{c:?}");
        assert_eq!(TrustDomain::parse(&format!("{c}td")).is_ok(), good, "{c:?}");
    }
    assert_eq!(allowed, 39);
    for text in [
        " ", "~", "!", "$", "*", "+", ",", "=", "\0", "é", "[::1]", "例",
    ] {
        assert!(TrustDomain::parse(text).is_err(), "{text:?}");
        assert!(parse(&format!("spiffe://{text}/p")).is_err(), "{text:?}");
    }
    assert!(TrustDomain::parse("a/b").is_err());
}

#[test]
fn id_07_host_is_not_percent_encoded() {
    refused(
        &[
            "spiffe://ex%61mple.org/a",
            "spiffe://%F0%9F%A4%AF/a",
            "spiffe://example%2eorg/a",
            "spiffe://a%/p",
        ],
        &E::PercentEncoded,
    );
}

#[test]
fn id_08_names_that_look_like_addresses_get_no_special_treatment() {
    for name in [
        "1.2.3.4",
        "999.1.1.1",
        "10.0.0.01",
        "a_b.example",
        "example..org",
        ".example.org",
        "example.org.",
        "-example.org",
        "_",
        "a",
        ".",
        "..",
    ] {
        assert_eq!(TrustDomain::parse(name).unwrap().as_str(), name);
        assert_eq!(
            parse(&format!("spiffe://{name}/a"))
                .unwrap()
                .trust_domain()
                .as_str(),
            name
        );
    }
    let parse = |name| TrustDomain::parse(name).unwrap();
    assert_ne!(parse("example.org"), parse("example.org."));
    assert_ne!(parse("10.0.0.1"), parse("10.0.0.01"));
    assert!(TrustDomain::parse("[::1]").is_err());
}

/// D-21: legal names that Go peers cannot use deserve a word of warning.
#[test]
fn id_08_names_that_are_not_dns_like_are_warned_about() {
    for plain in ["example.org", "a", "1.2.3.4", "prod-eu.example.org"] {
        assert_eq!(
            TrustDomain::parse(plain).unwrap().dns_like_warning(),
            None,
            "{plain}"
        );
    }
    let long = "a".repeat(64);
    for odd in [
        "example..org",
        ".example.org",
        "example.org.",
        "a_b",
        "-a",
        "a-.org",
        &long,
    ] {
        let warning = TrustDomain::parse(odd).unwrap().dns_like_warning();
        assert!(warning.is_some_and(|text| text.contains(odd)), "{odd}");
    }
}

#[test]
fn id_09_path_is_not_percent_encoded() {
    refused(
        &[
            "spiffe://example.org/%61",
            "spiffe://example.org/a%2Fb",
            "spiffe://example.org/a%20b",
            "spiffe://example.org/%2e%2e",
            "spiffe://example.org/a%",
            "spiffe://example.org/a%zz",
        ],
        &E::PercentEncoded,
    );
}

#[test]
fn id_10_empty_and_dot_segments_are_refused_not_resolved() {
    refused(
        &[
            "spiffe://example.org//a",
            "spiffe://example.org/a//b",
            "spiffe://example.org//",
        ],
        &E::EmptySegment,
    );
    refused(
        &[
            "spiffe://example.org/.",
            "spiffe://example.org/..",
            "spiffe://example.org/./a",
            "spiffe://example.org/a/./b",
            "spiffe://example.org/a/..",
            "spiffe://example.org/../a",
            "spiffe://example.org/a/../b",
        ],
        &E::DotSegment,
    );
    for path in ["/.a", "/..a", "/...", "/a.", "/a..b", "/a/..."] {
        assert_eq!(
            parse(&format!("spiffe://example.org{path}"))
                .unwrap()
                .path(),
            path
        );
    }
}

#[test]
fn id_11_a_trailing_slash_is_refused() {
    refused(
        &["spiffe://example.org/", "spiffe://example.org/a/"],
        &E::TrailingSlash,
    );
    refused(&["spiffe://example.org/a//"], &E::EmptySegment);
    let bare = parse("spiffe://example.org").unwrap();
    assert!(!bare.has_path());
    assert_eq!(bare, domain().id());
}

#[test]
fn id_12_segment_characters_are_the_65_allowed_ones() {
    let mut allowed = 0;
    for code in 0..=0xFF_u32 {
        let c = char::from_u32(code).unwrap();
        if c == '/' {
            continue;
        }
        let good = c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        allowed += usize::from(good);
        assert_eq!(
            parse(&format!("spiffe://td/path{c}")).is_ok(),
            good,
            "{c:?}"
        );
        assert_eq!(
            SpiffeId::from_path(&domain(), &format!("/p{c}")).is_ok(),
            good,
            "{c:?}"
        );
        assert_eq!(
            SpiffeId::from_segments(&domain(), &[&format!("p{c}")]).is_ok(),
            good,
            "{c:?}"
        );
    }
    assert_eq!(allowed, 65);
    for segment in [":", "@", "~", "+", "=", "*", " ", "\\", "\0", "é", "a b"] {
        assert!(
            parse(&format!("spiffe://example.org/{segment}")).is_err(),
            "{segment:?}"
        );
    }
}

#[test]
fn id_12_builders_apply_the_same_rules() {
    let from_segments = |segments: &[&str]| SpiffeId::from_segments(&domain(), segments);
    assert_eq!(from_segments(&[]).unwrap(), domain().id());
    assert_eq!(
        from_segments(&["a"]).unwrap().as_str(),
        "spiffe://example.org/a"
    );
    assert_eq!(
        from_segments(&["a", "B"]).unwrap().as_str(),
        "spiffe://example.org/a/B"
    );
    assert_eq!(from_segments(&[""]), Err(E::EmptySegment));
    assert_eq!(from_segments(&["."]), Err(E::DotSegment));
    assert_eq!(from_segments(&["a", ".."]), Err(E::DotSegment));
    for segment in ["/", "/foo", "a/b"] {
        assert_eq!(
            from_segments(&[segment]),
            Err(E::PathCharacter { character: '/' })
        );
    }
    assert_eq!(
        from_segments(&["$"]),
        Err(E::PathCharacter { character: '$' })
    );

    let from_path = |path: &str| SpiffeId::from_path(&domain(), path);
    assert_eq!(from_path("").unwrap(), domain().id());
    assert_eq!(from_path("/foo").unwrap().path(), "/foo");
    assert_eq!(from_path("foo"), Err(E::PathWithoutSlash));
    assert_eq!(from_path("/"), Err(E::TrailingSlash));
    assert_eq!(from_path("//a"), Err(E::EmptySegment));
    assert_eq!(from_path("/a?x"), Err(E::PathCharacter { character: '?' }));
}

#[test]
fn id_13_ids_of_up_to_2048_bytes_are_supported() {
    for length in [2_047, 2_048] {
        let path = format!("/{}", "a".repeat(length - "spiffe://example.org/".len()));
        let built = SpiffeId::from_path(&domain(), &path).unwrap();
        assert_eq!(built.as_str().len(), length);
        assert_eq!(parse(built.as_str()).unwrap(), built);
    }
}

/// Decision A-5: longer IDs are refused wherever they come from.
#[test]
fn id_14_ids_longer_than_2048_bytes_are_neither_made_nor_taken() {
    let path = format!("/{}", "a".repeat(2_049 - "spiffe://example.org/".len()));
    let long = E::TooLong { length: 2_049 };
    assert_eq!(SpiffeId::from_path(&domain(), &path), Err(long.clone()));
    assert_eq!(
        SpiffeId::from_segments(&domain(), &[path.trim_matches('/')]),
        Err(long.clone())
    );
    assert_eq!(parse(&format!("spiffe://example.org{path}")), Err(long));
}

#[test]
fn id_n1_a_trust_domain_has_at_most_255_bytes() {
    let (good, bad) = ("a".repeat(255), "a".repeat(256));
    assert!(TrustDomain::parse(&good).is_ok());
    assert!(parse(&format!("spiffe://{good}/p")).is_ok());
    let long = E::TrustDomainTooLong { length: 256 };
    assert_eq!(TrustDomain::parse(&bad), Err(long.clone()));
    assert_eq!(parse(&format!("spiffe://{bad}/p")), Err(long.clone()));
    assert_eq!(parse(&format!("spiffe://{bad}")), Err(long));
    let server = SpiffeId::server_id(&TrustDomain::parse(&good).unwrap());
    assert_eq!(parse(server.as_str()).unwrap(), server);
}

#[test]
fn id_n2_paths_compare_by_case() {
    let (upper, lower) = (
        parse("spiffe://example.org/Svc").unwrap(),
        parse("spiffe://example.org/svc").unwrap(),
    );
    assert_ne!(upper, lower);
    assert_eq!(upper.trust_domain(), lower.trust_domain());
}

#[test]
fn id_n6_the_path_is_optional_for_an_id() {
    let id = parse("spiffe://example.org").unwrap();
    assert_eq!((id.path(), id.has_path()), ("", false));
    assert!(parse("spiffe://example.org/w").unwrap().has_path());
}

#[test]
fn a_trust_domain_is_read_from_a_name_or_an_id() {
    for text in [
        "example.org",
        "spiffe://example.org",
        "spiffe://example.org/a/b",
    ] {
        assert_eq!(
            TrustDomain::from_id_or_name(text).unwrap(),
            domain(),
            "{text}"
        );
    }
    for text in [
        "",
        "spiffe://",
        "spiffe:///path",
        "spiffe:/example.org/p",
        "http://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/p/",
        "spiffe://ex%61mple.org",
        "spiffe://EXAMPLE.org/p",
        "example.org:80",
        "user@example.org",
        "example org",
        "://example.org",
        "example.org/",
    ] {
        assert!(TrustDomain::from_id_or_name(text).is_err(), "{text}");
    }
    assert!(TrustDomain::parse("spiffe://example.org").is_err());
}

#[test]
fn server_and_agent_ids_have_their_known_paths() {
    assert_eq!(
        SpiffeId::server_id(&domain()).as_str(),
        "spiffe://example.org/spire/server"
    );
    assert!(SpiffeId::server_id(&domain()).is_server());
    let agent = SpiffeId::agent_id(&domain(), "join_token", "abc").unwrap();
    assert_eq!(
        agent.as_str(),
        "spiffe://example.org/spire/agent/join_token/abc"
    );
    assert!(agent.is_agent() && agent.is_reserved() && !agent.is_server());
    let nested = SpiffeId::agent_id(&domain(), "k8s_psat", "demo/uid").unwrap();
    assert_eq!(nested.path(), "/spire/agent/k8s_psat/demo/uid");
    assert!(SpiffeId::agent_id(&domain(), "a/b", "c").is_err());
    assert!(SpiffeId::agent_id(&domain(), "join_token", "").is_err());
    assert!(SpiffeId::agent_id(&domain(), "..", "c").is_err());
    assert!(SpiffeId::agent_id(&domain(), "join_token", "../server").is_err());
}

#[test]
fn only_what_lies_below_spire_is_reserved() {
    let reserved = |path: &str| SpiffeId::from_path(&domain(), path).unwrap().is_reserved();
    assert!(reserved("/spire") && reserved("/spire/agent") && reserved("/spire/x/y"));
    assert!(!reserved("") && !reserved("/spirea") && !reserved("/a/spire") && !reserved("/Spire"));
}

#[test]
fn membership_is_equality_of_the_trust_domain() {
    let id = parse("spiffe://a.example.org/x").unwrap();
    assert!(id.is_member_of(&TrustDomain::parse("a.example.org").unwrap()));
    assert!(!id.is_member_of(&domain()));
}

#[test]
fn json_form_is_the_text_and_is_checked() {
    let id = parse("spiffe://example.org/a").unwrap();
    assert_eq!(
        serde_json::to_string(&id).unwrap(),
        "\"spiffe://example.org/a\""
    );
    assert_eq!(
        serde_json::from_str::<SpiffeId>("\"spiffe://example.org/a\"").unwrap(),
        id
    );
    assert!(serde_json::from_str::<SpiffeId>("\"BAD\"").is_err());
    assert!(serde_json::from_str::<TrustDomain>("\"Example.org\"").is_err());
    assert_eq!(
        serde_json::from_str::<TrustDomain>("\"example.org\"").unwrap(),
        domain()
    );
}

/// A second reading of the specification, written as differently as possible: one pass over the
/// bytes with a small state machine instead of splitting.
fn oracle(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() > SPIFFE_ID_MAX || bytes.len() < 10 || &bytes[..9] != b"spiffe://" {
        return false;
    }
    let (mut in_path, mut host, mut segment) = (false, 0_usize, Vec::new());
    for &byte in &bytes[9..] {
        match (in_path, byte) {
            (false, b'/') => in_path = true,
            (false, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_') => host += 1,
            (true, b'/') => {
                if matches!(segment.as_slice(), b"" | b"." | b"..") {
                    return false;
                }
                segment.clear();
            }
            (true, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_') => {
                segment.push(byte);
            }
            _ => return false,
        }
    }
    let end = !in_path || !matches!(segment.as_slice(), b"" | b"." | b"..");
    (1..=255).contains(&host) && end
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn parse_agrees_with_the_oracle(
        text in prop_oneof![
            any::<String>(),
            "spiffe://[a-zA.%_-]{0,4}[/.a-zA-Z0-9%?#:@ é-]{0,16}",
            "spiffe://td(/[.a]{0,3}){0,4}",
            "[sS]piffe:/{0,3}[a-z]{0,3}/?[a-z]{0,3}",
            (250_usize..260).prop_map(|n| format!("spiffe://{}/a", "x".repeat(n))),
            (2_030_usize..2_045).prop_map(|n| format!("spiffe://td/{}", "x".repeat(n))),
        ],
    ) {
        prop_assert_eq!(parse(&text).is_ok(), oracle(&text), "{:?}", text);
    }

    #[test]
    fn whatever_parses_is_printed_unchanged(
        text in "spiffe://[a-z0-9._-]{1,8}(/[A-Za-z0-9._-]{1,4}){0,3}",
    ) {
        if let Ok(id) = parse(&text) {
            prop_assert_eq!(id.to_string(), text.clone());
            prop_assert_eq!(id.path().is_empty() || id.path().starts_with('/'), true);
            prop_assert_eq!(&TrustDomain::parse(id.trust_domain().as_str()).unwrap(), id.trust_domain());
            let rebuilt = SpiffeId::from_path(id.trust_domain(), id.path());
            prop_assert_eq!(rebuilt, Ok(id.clone()));
            let segments: Vec<&str> = id.path().split('/').skip(1).collect();
            prop_assert_eq!(SpiffeId::from_segments(id.trust_domain(), &segments), Ok(id));
        }
    }

    #[test]
    fn the_order_of_ids_is_the_order_of_their_texts(
        one in "spiffe://[ab.]{1,3}(/[a-c]{1,2}){0,2}",
        two in "spiffe://[ab.]{1,3}(/[a-c]{1,2}){0,2}",
    ) {
        let (first, second) = (parse(&one).unwrap(), parse(&two).unwrap());
        prop_assert_eq!(first.cmp(&second), one.cmp(&two));
        prop_assert_eq!(first == second, one == two);
    }

    #[test]
    fn any_text_as_a_trust_domain_is_parsed_or_refused(text in any::<String>()) {
        if let Ok(name) = TrustDomain::parse(&text) {
            prop_assert_eq!(name.as_str(), text.as_str());
            let id = name.id();
            prop_assert_eq!(id.trust_domain(), &name);
        }
        let _ = TrustDomain::from_id_or_name(&text);
    }
}
