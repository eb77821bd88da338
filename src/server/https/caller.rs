//! The caller of a request: a user with groups, by client certificate or bearer token.

use std::collections::BTreeMap;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Group of authenticated users, and user and group of all others.
const AUTHENTICATED: &str = "system:authenticated";
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// A user, as in the API server's reviews.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// Client certificate of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientCertificate {
    /// None was shown, or one that names nobody.
    Absent,
    /// It is not of the authority of clients, or not valid now.
    Invalid,
    /// It is valid and names this user.
    Of(Caller),
}

impl Caller {
    /// Returns the user of a client certificate: its common name, the last if there are several, with its
    /// organizations as groups. `None` for a certificate without a common name.
    pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
        if name.is_empty() {
            return None;
        }
        let groups = subject.iter_organization();
        let mut groups: Vec<String> = groups
            .filter_map(|group| Some(group.as_str().ok()?.to_owned()))
            .collect();
        groups.push(AUTHENTICATED.to_owned());
        Some(Self {
            name,
            groups,
            ..Self::default()
        })
    }

    /// The user of callers without credentials.
    pub(super) fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }
}

/// Returns the bearer token of a request.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(subject: &[(DnType, &str)]) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            parameters.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_its_user_and_groups() {
        let shown = certificate(&[
            (DnType::OrganizationName, "system:masters"),
            (DnType::CommonName, "admin"),
        ]);
        let caller = Caller::of_certificate(&shown).unwrap();
        assert_eq!(caller.name, "admin");
        assert_eq!(caller.groups, ["system:masters", "system:authenticated"]);
        let both = [(DnType::CommonName, "admin"), (DnType::CommonName, "bob")];
        let caller = Caller::of_certificate(&certificate(&both));
        assert_eq!(caller.unwrap().name, "bob");
        let nameless = certificate(&[(DnType::OrganizationName, "system:masters")]);
        assert_eq!(Caller::of_certificate(&nameless), None);
    }

    #[test]
    fn a_token_is_what_stands_behind_bearer() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            token(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        for value in ["Basic abc", "Bearer", "Bearer  ", "abc"] {
            assert_eq!(of(value), None, "{value}");
        }
        assert_eq!(token(&HeaderMap::new()), None);
    }
}
