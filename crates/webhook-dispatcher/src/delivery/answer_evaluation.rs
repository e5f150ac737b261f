//! Which answers of an endpoint accept an event, and which are retried. How often and how long says the row of the stage in
//! `sluice_domain::stages`.

use reqwest::StatusCode;
use sluice_domain::ResourceName;
use sluice_service::error_chain;

use super::client::{Answer, Fault};
use crate::error::Error;

/// Returns the HTTP status, 0 without an answer.
pub(super) fn status_of(answer: &Result<Answer, Fault>) -> u32 {
    answer
        .as_ref()
        .map_or(0, |answer| u32::from(answer.status.as_u16()))
}

/// Fails if the endpoint did not accept the event, with the error and the detail for the record.
///
/// As Standard Webhooks says, everything but 2xx is retried, and only 410 is final.
pub(super) fn evaluate_answer(
    endpoint: &ResourceName,
    answer: Result<Answer, Fault>,
) -> Result<(), (Error, String)> {
    let endpoint = endpoint.clone();
    let Answer {
        status,
        retry_after,
        excerpt,
    } = match answer {
        Ok(answer) => answer,
        Err(source) => {
            let error = Error::NoAnswer { endpoint, source };
            let detail = error_chain(&error);
            return Err((error, detail));
        }
    };
    if status.is_success() {
        return Ok(());
    }
    let hint = if status.is_redirection() {
        "; redirects are not followed"
    } else if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        "; does it have the same secret?"
    } else {
        ""
    };
    let error = if status == StatusCode::GONE {
        Error::Gone { endpoint }
    } else {
        Error::Answered {
            endpoint,
            status,
            hint,
            retry_after,
        }
    };
    let detail = if excerpt.is_empty() {
        error.to_string()
    } else {
        format!("{error}: {excerpt}")
    };
    Err((error, detail))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_domain::{Class, Classify as _};

    use super::*;

    fn answered(status: u16, excerpt: &str) -> Result<(), (Error, String)> {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: Some(Duration::from_secs(7)),
            excerpt: excerpt.to_owned(),
        };
        evaluate_answer(&"hook".parse().unwrap(), Ok(answer))
    }

    #[test]
    fn only_410_gone_is_not_retried() {
        for status in [200, 201, 202, 204, 299] {
            assert!(answered(status, "").is_ok(), "{status}");
        }
        for status in [
            300, 302, 307, 400, 401, 403, 404, 408, 409, 422, 425, 429, 500, 503,
        ] {
            let (error, _) = answered(status, "").unwrap_err();
            let after = Some(Duration::from_secs(7));
            assert_eq!(error.class(), Class::Transient { after }, "{status}");
        }
        let (error, _) = answered(410, "").unwrap_err();
        assert_eq!(error.class(), Class::Permanent);
        assert!(error.to_string().contains("410 Gone"));
    }

    #[test]
    fn the_body_of_an_answer_is_in_the_record_and_not_in_the_error() {
        let (error, detail) = answered(500, "hunter2").unwrap_err();
        assert!(!error_chain(&error).contains("hunter2"));
        assert!(
            detail.contains("500 Internal Server Error: hunter2"),
            "{detail}"
        );
        let (error, _) = answered(302, "").unwrap_err();
        assert!(error.to_string().ends_with("redirects are not followed"));
    }
}
