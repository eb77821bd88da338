//! Fetching an image with each of the credentials that there are for it.

use std::time::Duration;

use tokio::time::Instant;

use super::credentials::{Credential, CredentialSource};
use super::{ImageError, ImagePull, image_error, spec};
use crate::cri::Error;
use crate::cri::v1::PullImageRequest;
use crate::units::duration::format_duration;
use crate::units::time::Later;

/// Time before the end of a pull's timeout at which the runtime may notice it already.
const SLACK: Duration = Duration::from_secs(1);

/// The tries of a pull that failed.
#[derive(Debug, Default)]
struct FailedTries {
    /// The credentials, or none, and the error message.
    refusals: Vec<(Option<Credential>, String)>,
    /// Reasons for which there may be more credentials.
    failures: Vec<String>,
}

impl ImagePull {
    /// Has the runtime fetch the image, with each of the credentials until one will do, then without. A source of
    /// credentials is asked once those before it did not do.
    pub(super) async fn fetch(&self) -> Result<(), ImageError> {
        let end = Instant::now().later(self.timeout);
        let mut tries = FailedTries::default();
        for source in CredentialSource::ALL {
            let find = self.credentials.find(source, &self.image, &self.secrets);
            let Ok(found) = tokio::time::timeout_at(end, find).await else {
                return Err(self.timed_out(&format!("asking {source}"), &tries));
            };
            tries.failures.extend(found.failures);
            for credential in found.credentials {
                if !tries.has(&credential)
                    && self.is_fetched(Some(credential), end, &mut tries).await?
                {
                    return Ok(());
                }
            }
        }
        if self.is_fetched(None, end, &mut tries).await? {
            return Ok(());
        }
        Err(ImageError {
            reason: "ErrImagePull",
            message: tries.message(&self.credentials.places(&self.secrets)),
        })
    }

    /// Has the runtime fetch the image with these credentials. Returns true if it has, and false if others may do.
    async fn is_fetched(
        &self,
        credential: Option<Credential>,
        end: Instant,
        tries: &mut FailedTries,
    ) -> Result<bool, ImageError> {
        let request = PullImageRequest {
            image: Some(spec(&self.image)),
            auth: credential.as_ref().map(|c| c.auth.clone()),
            sandbox_config: None,
        };
        let left = end.saturating_duration_since(Instant::now());
        let Err(error) = self.client.pull_image(request, left).await else {
            return Ok(true);
        };
        let refusal = image_error(&error, "ErrImagePull");
        // The runtime has timeouts of its own, which say more.
        let is_late = Instant::now().later(SLACK) >= end;
        if is_late && matches!(error, Error::Deadline { .. }) {
            return Err(self.timed_out("pulling the image", tries));
        }
        if matches!(error, Error::Unavailable { .. }) || refusal.reason == "InvalidImageName" {
            return Err(refusal);
        }
        tries.refusals.push((credential, refusal.message));
        Ok(false)
    }

    /// Returns the error of a pull whose time is over, with what was going on then.
    fn timed_out(&self, doing: &str, tries: &FailedTries) -> ImageError {
        let within = format_duration(self.timeout);
        let late = format!("Timed out after {within} {doing} (--image-pull-timeout)");
        let before = tries.parts();
        ImageError {
            reason: "ErrImagePull",
            message: std::iter::once(late)
                .chain(before)
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

impl FailedTries {
    /// Returns true if the same credentials were tried.
    fn has(&self, credential: &Credential) -> bool {
        let mut tried = self.refusals.iter().filter_map(|(tried, _)| tried.as_ref());
        tried.any(|tried| tried.auth == credential.auth)
    }

    /// Returns the error of the image, for which credentials were looked for in these places.
    fn message(&self, places: &[String]) -> String {
        let message = match self.refusals.as_slice() {
            [(None, message)] if !wants_credentials(message) => return message.clone(),
            [(None, message)] => {
                let places = places.join(", ");
                format!("{message}; there are no credentials for it, looked for in {places}")
            }
            _ => return self.parts().join("; "),
        };
        let failures = self.failures.iter().map(String::as_str);
        let parts = std::iter::once(message.as_str()).chain(failures);
        parts.collect::<Vec<_>>().join("; ")
    }

    /// Returns what each try and each failure say.
    fn parts(&self) -> Vec<String> {
        let tries = self
            .refusals
            .iter()
            .map(|(credential, message)| match credential {
                Some(credential) => format!("with the credentials of {credential}: {message}"),
                None => format!("without credentials: {message}"),
            });
        tries.chain(self.failures.iter().cloned()).collect()
    }
}

/// Returns true if the registry seems to want to know who asks.
fn wants_credentials(message: &str) -> bool {
    let message = message.to_lowercase();
    let words = ["401", "403", "authoriz", "authentic", "denied", "forbidden"];
    words.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::AuthConfig;

    fn credential(place: &str, password: &str) -> Credential {
        Credential {
            entry: "reg.example".to_owned(),
            place: place.to_owned(),
            auth: AuthConfig {
                password: password.to_owned(),
                ..AuthConfig::default()
            },
        }
    }

    #[test]
    fn credentials_that_were_refused_are_not_tried_again() {
        let mut tries = FailedTries::default();
        let refused = credential("Secret default/a", "hush");
        tries.refusals.push((Some(refused), "401".to_owned()));
        assert!(tries.has(&credential("/config.json", "hush")));
        assert!(!tries.has(&credential("/config.json", "other")));
    }

    #[test]
    fn the_error_says_what_was_tried_and_why_there_is_no_more() {
        let mut tries = FailedTries::default();
        let places = ["Secret default/a".to_owned(), "/config.json".to_owned()];
        tries.refusals.push((None, "no such host".to_owned()));
        assert_eq!(tries.message(&places), "no such host");
        tries.refusals = vec![(None, "401 Unauthorized".to_owned())];
        let none = "401 Unauthorized; there are no credentials for it, looked for in Secret default/a, /config.json";
        assert_eq!(tries.message(&places), none);
        tries
            .failures
            .push("credential helper x: failed".to_owned());
        assert_eq!(
            tries.message(&places),
            format!("{none}; credential helper x: failed")
        );
        let refused = credential("/config.json", "hush");
        tries.refusals.insert(0, (Some(refused), "403".to_owned()));
        let expected = "with the credentials of \"reg.example\" in /config.json: 403; without credentials: \
                        401 Unauthorized; credential helper x: failed";
        assert_eq!(tries.message(&places), expected);
    }
}
