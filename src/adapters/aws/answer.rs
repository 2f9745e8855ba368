//! AWS's error answers.

use quick_xml::de::from_str;
use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;

/// A call that a service answered with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    /// The HTTP status.
    pub status: u16,
    /// Such as `ParameterNotFound`; empty if the answer had none.
    pub code: String,
    /// The service's own message.
    pub message: String,
}

impl Rejection {
    /// Parses an error of the EC2 query protocol, of the other XML protocols or of the JSON
    /// protocol.
    pub fn read(status: u16, body: &str) -> Self {
        let (code, message) = from_json(body)
            .or_else(|| from_xml(body))
            .unwrap_or_else(|| (String::new(), body.chars().take(200).collect()));
        Self {
            status,
            code,
            message,
        }
    }

    /// Whether the signature's time, key or token was rejected.
    pub fn is_about_credentials(&self) -> bool {
        matches!(
            self.code.as_str(),
            "RequestTimeTooSkewed"
                | "RequestExpired"
                | "RequestInTheFuture"
                | "SignatureDoesNotMatch"
                | "InvalidSignatureException"
                | "AuthFailure"
                | "ExpiredToken"
                | "ExpiredTokenException"
                | "InvalidClientTokenId"
                | "UnrecognizedClientException"
        )
    }

    fn is_denied(&self) -> bool {
        matches!(
            self.code.as_str(),
            "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException"
        )
    }

    /// The error for a caller that does not need the code. `action` is IAM's,
    /// `ec2:DescribeInstances`.
    ///
    /// A missing permission counts as temporary too: policies are attached while instances run.
    pub fn into_error(self, action: &str, role: &str) -> Error {
        let denied = self.is_denied();
        let credentials = self.is_about_credentials();
        // The message is more precise if a call needs a second service, such as KMS.
        let wanted = self
            .message
            .split_once("to perform: ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .unwrap_or(action)
            .to_owned();
        let error = Error::failed(format!(
            "AWS answered {} {}: {}",
            self.status, self.code, self.message
        ));
        if denied {
            error.hint(format!("allow the action {wanted} for the IAM role {role}"))
        } else if credentials {
            error.hint(format!(
                "check the machine's clock and that the IAM role {role} still exists"
            ))
        } else {
            error
        }
    }
}

/// `{"__type": "com.amazonaws.ssm#ParameterNotFound", "message": "..."}`
fn from_json(body: &str) -> Option<(String, String)> {
    let json: Value = serde_json::from_str(body).ok()?;
    let kind = json.get("__type")?.as_str()?;
    let code = kind.rsplit('#').next().unwrap_or(kind);
    // Services differ in its case, and some servers send both.
    let message = json.get("message").or_else(|| json.get("Message"));
    let message = message.and_then(Value::as_str).unwrap_or_default();
    Some((code.to_owned(), message.to_owned()))
}

/// `<Response><Errors><Error><Code>...</Code><Message>...</Message></Error></Errors></Response>` of EC2,
/// `<ErrorResponse><Error>...</Error></ErrorResponse>` of others, and Route 53's
/// `<InvalidChangeBatch><Messages><Message>...</Message></Messages></InvalidChangeBatch>`.
fn from_xml(body: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Xml {
        errors: Option<Errors>,
        error: Option<One>,
        messages: Option<Messages>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Errors {
        error: Vec<One>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct One {
        code: String,
        #[serde(default)]
        message: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Messages {
        #[serde(default)]
        message: Vec<String>,
    }
    let xml: Xml = from_str(body).ok()?;
    if let Some(messages) = xml.messages {
        return Some(("InvalidChangeBatch".to_owned(), messages.message.join("; ")));
    }
    let listed = xml
        .errors
        .and_then(|errors| errors.error.into_iter().next());
    let first = listed.or(xml.error)?;
    Some((first.code, first.message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn errors_of_both_protocols_and_of_proxies_are_read() {
        let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>AuthFailure</Code><Message>no &amp; no</Message></Error></Errors><RequestID>ea966190</RequestID></Response>";
        let cases = [
            (xml, "AuthFailure", "no & no"),
            (
                "<ErrorResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Error><Type>Sender</Type><Code>NoSuchHostedZone</Code><Message>none</Message></Error><RequestId>1</RequestId></ErrorResponse>",
                "NoSuchHostedZone",
                "none",
            ),
            (
                "<InvalidChangeBatch xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Messages><Message>a</Message><Message>b</Message></Messages><RequestId>1</RequestId></InvalidChangeBatch>",
                "InvalidChangeBatch",
                "a; b",
            ),
            (
                "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>",
                "Throttling",
                "Rate exceeded",
            ),
            (
                r#"{"__type":"com.amazonaws.ssm#ParameterNotFound"}"#,
                "ParameterNotFound",
                "",
            ),
            (
                r#"{"__type":"AccessDeniedException","Message":"no"}"#,
                "AccessDeniedException",
                "no",
            ),
            (
                r#"{"__type":"ParameterAlreadyExists","message":"a","Message":"a"}"#,
                "ParameterAlreadyExists",
                "a",
            ),
            ("<html>bad gateway</html>", "", "<html>bad gateway</html>"),
            ("", "", ""),
        ];
        for (body, code, message) in cases {
            let rejection = Rejection::read(400, body);
            assert_eq!(
                (rejection.code.as_str(), rejection.message.as_str()),
                (code, message)
            );
        }
    }

    #[test]
    fn a_missing_permission_names_action_and_role() {
        let denied = |code: &str, message: &str| {
            let rejection = Rejection {
                status: 403,
                code: code.into(),
                message: message.into(),
            };
            let error = rejection.into_error("ssm:PutParameter", "node-role");
            error.remedy().unwrap().to_owned()
        };
        assert_eq!(
            denied("UnauthorizedOperation", "You are not authorized."),
            "allow the action ssm:PutParameter for the IAM role node-role"
        );
        assert_eq!(
            denied(
                "AccessDeniedException",
                "user is not authorized to perform: kms:Encrypt on x"
            ),
            "allow the action kms:Encrypt for the IAM role node-role"
        );
    }
}
