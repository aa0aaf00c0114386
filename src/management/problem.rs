use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Why a request is not answered, as RFC 9457 has it.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into() }
    }

    #[cfg(test)]
    pub(crate) fn status_code(&self) -> u16 {
        self.status.as_u16()
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

#[derive(serde::Serialize)]
struct Details<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Problem { status, detail } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let details = Details { r#type: "about:blank", title, status: status.as_u16(), detail: &detail };
        let body = serde_json::to_vec(&details).expect("numbers and text");
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}
