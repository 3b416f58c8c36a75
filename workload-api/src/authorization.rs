//! Sending a JWT-SVID to somebody.
//!
//! Responsible for: the `authorization` header of HTTP and of gRPC (JWT-SVID, sections 5.2 and 5.3).
//! Always holds: a token goes only over a hop that keeps it secret (section 7.3): over TLS, or to this
//! very machine, unless the caller says otherwise in so many words; the value is marked as sensitive, so
//! that no HTTP library logs or indexes it. Not here: opening the connection.

use std::net::IpAddr;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Uri};
use tonic::metadata::{Ascii, MetadataValue};

use crate::client::jwt::JwtToken;

/// Why a token is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Anybody on the way could read it, and be this process until it expires.
    #[error("a JWT-SVID does not go to another machine without TLS")]
    Plaintext,
    /// The address does not say how it is reached.
    #[error("the request has no scheme and host, so nobody can tell whether it is kept secret")]
    Unknown,
    /// The token has characters that no header may have.
    #[error("the token is not a header value")]
    Token,
}

/// A JWT-SVID on its way.
#[derive(Debug, Clone)]
pub struct Bearer(HeaderValue);

impl Bearer {
    /// Prepares a token for sending.
    ///
    /// # Errors
    /// [`SendError::Token`] for what cannot be a token.
    pub fn new(token: &JwtToken) -> Result<Self, SendError> {
        let value = format!("Bearer {}", token.token);
        let mut value = HeaderValue::try_from(value).map_err(|_| SendError::Token)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// Puts the token on an HTTP request, in place of any other authorization.
    ///
    /// ```
    /// # use mintmark_workload_api::authorization::{Bearer, SendError};
    /// # use mintmark_workload_api::client::jwt::JwtToken;
    /// # fn example(token: &JwtToken) -> Result<(), SendError> {
    /// let mut request = http::Request::get("https://orders.example.org/1").body(()).unwrap();
    /// Bearer::new(token)?.attach(&mut request)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SendError::Plaintext`] for a host elsewhere without TLS.
    pub fn attach<B>(&self, request: &mut Request<B>) -> Result<(), SendError> {
        confidential(request.uri())?;
        self.attach_in_plaintext(request);
        Ok(())
    }

    /// The same whatever the address says: for a caller who knows that something else, such as a mesh,
    /// keeps this hop secret.
    pub fn attach_in_plaintext<B>(&self, request: &mut Request<B>) {
        request.headers_mut().insert(AUTHORIZATION, self.0.clone());
    }

    /// An interceptor that puts the token on each gRPC call to `peer`, the address of the channel.
    ///
    /// # Errors
    /// [`SendError::Plaintext`] for a host elsewhere without TLS.
    pub fn interceptor(&self, peer: &Uri) -> Result<BearerInterceptor, SendError> {
        confidential(peer)?;
        self.interceptor_in_plaintext()
    }

    /// The same whatever the address says; see [`Self::attach_in_plaintext`].
    ///
    /// # Errors
    /// [`SendError::Token`] for what cannot be a token.
    pub fn interceptor_in_plaintext(&self) -> Result<BearerInterceptor, SendError> {
        let mut value = MetadataValue::try_from(self.0.as_bytes()).map_err(|_| SendError::Token)?;
        value.set_sensitive(true);
        Ok(BearerInterceptor(value))
    }
}

/// Puts `authorization: Bearer …` on each call.
#[derive(Debug, Clone)]
pub struct BearerInterceptor(MetadataValue<Ascii>);

impl tonic::service::Interceptor for BearerInterceptor {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// TLS, or this machine.
fn confidential(peer: &Uri) -> Result<(), SendError> {
    let (Some(scheme), Some(host)) = (peer.scheme_str(), peer.host()) else {
        return Err(SendError::Unknown);
    };
    let local = host == "localhost"
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if scheme == "https" || local {
        Ok(())
    } else {
        Err(SendError::Plaintext)
    }
}

#[cfg(test)]
mod tests {
    use tonic::service::Interceptor as _;

    use super::*;

    fn bearer() -> Bearer {
        let token = JwtToken {
            spiffe_id: "spiffe://example.org/w".parse().unwrap(),
            token: "head.body.tail".to_owned(),
            hint: String::new(),
        };
        Bearer::new(&token).unwrap()
    }

    #[test]
    fn jwt_16_over_http_the_token_is_one_bearer_authorization() {
        for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
            let mut request = Request::get("https://orders.example.org/1")
                .version(version)
                .header("authorization", "Basic b2xk")
                .body(())
                .unwrap();
            bearer().attach(&mut request).unwrap();
            let values: Vec<_> = request.headers().get_all("authorization").iter().collect();
            assert_eq!(values, ["Bearer head.body.tail"]);
            assert!(values[0].is_sensitive());
            assert_eq!(request.headers().len(), 1);
        }
    }

    #[test]
    fn jwt_17_over_grpc_the_token_is_one_bearer_authorization() {
        let peer = Uri::from_static("https://orders.example.org");
        let mut interceptor = bearer().interceptor(&peer).unwrap();
        let mut request = tonic::Request::new(());
        request
            .metadata_mut()
            .insert("authorization", "Basic b2xk".parse().unwrap());
        let request = interceptor.call(request).unwrap();
        let values: Vec<_> = request.metadata().get_all("authorization").iter().collect();
        assert_eq!(values, ["Bearer head.body.tail"]);
        assert!(values[0].is_sensitive());
    }

    #[test]
    fn jwt_n5_no_token_goes_to_another_machine_without_tls_unless_told_to() {
        let attach = |uri: &str| {
            let mut request = Request::get(uri).body(()).unwrap();
            let verdict = bearer().attach(&mut request);
            let there = request.headers().contains_key("authorization");
            assert_eq!(verdict.is_ok(), there, "{uri}");
            let peer: Uri = uri.parse().unwrap();
            assert_eq!(bearer().interceptor(&peer).err(), verdict.err(), "{uri}");
            verdict
        };
        for good in [
            "https://orders.example.org/",
            "http://127.0.0.1:80/",
            "http://[::1]:80/",
            "http://localhost/",
        ] {
            assert_eq!(attach(good), Ok(()), "{good}");
        }
        for bad in [
            "http://orders.example.org/",
            "http://10.0.0.1/",
            "http://[2001:db8::1]/",
            "http://localhost.example.org/",
            "http://127.0.0.1.example.org/",
        ] {
            assert_eq!(attach(bad), Err(SendError::Plaintext), "{bad}");
        }
        assert_eq!(attach("/1"), Err(SendError::Unknown));
        let mut request = Request::get("http://orders.mesh/").body(()).unwrap();
        bearer().attach_in_plaintext(&mut request);
        assert!(request.headers().contains_key("authorization"));
        assert!(bearer().interceptor_in_plaintext().is_ok());
    }

    #[test]
    fn what_is_no_header_value_is_not_sent_and_nothing_prints_the_token() {
        let token = JwtToken {
            spiffe_id: "spiffe://example.org/w".parse().unwrap(),
            token: "a\nb".to_owned(),
            hint: String::new(),
        };
        assert_eq!(Bearer::new(&token).unwrap_err(), SendError::Token);
        let peer = Uri::from_static("https://h");
        for printed in [
            format!("{:?}", bearer()),
            format!("{:?}", bearer().interceptor(&peer).unwrap()),
        ] {
            assert!(!printed.contains("head.body"), "{printed}");
        }
    }
}
