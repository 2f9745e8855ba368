//! Parameter Store through the JSON protocol of Systems Manager.
//! <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html>

use std::sync::Arc;

use reqwest::Method;
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    call::{Answer, Aws, Call},
    endpoint::Service,
};
use crate::{
    error::{Context, Error, Result},
    ports::Created,
};

/// The Systems Manager API.
#[derive(Clone)]
pub struct Ssm(Arc<Aws>);

/// A parameter as Systems Manager shows it. It may be somebody's secret, so it cannot be printed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Parameter {
    /// Its full name, `/k8s-bootstrap/prod/founder/1`.
    pub name: String,
    /// Its value; ciphertext if it is encrypted and decryption was not requested.
    pub value: String,
    /// `String`, `StringList` or `SecureString`.
    #[serde(rename = "Type")]
    pub kind: String,
}

impl Parameter {
    /// Whether it is stored encrypted.
    pub fn is_secret(&self) -> bool {
        self.kind == "SecureString"
    }
}

impl Ssm {
    /// The Systems Manager API with these credentials and endpoints.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self(aws)
    }

    /// Writes a plain parameter unless that name exists. Values have 1 to 4096 characters.
    ///
    /// After a lost answer, the retry finds the parameter that the first attempt wrote and returns
    /// `AlreadyThere`: only reading it shows who holds it.
    pub async fn create_parameter(&self, name: &str, value: &str) -> Result<Created> {
        let call = call(
            "PutParameter",
            &json!({"Name": name, "Value": value, "Type": "String", "Overwrite": false}),
        );
        match self.0.call(&call).await? {
            Answer::Done(_) => Ok(Created::Yes),
            Answer::Rejected(no, _) if no.code == "ParameterAlreadyExists" => {
                Ok(Created::AlreadyThere)
            }
            Answer::Rejected(no, role) => Err(self.error(&call, no, &role, name)),
        }
    }

    /// A parameter; ciphertext if it is encrypted.
    pub async fn parameter(&self, name: &str) -> Result<Option<Parameter>> {
        self.get(name, false).await
    }

    /// A parameter's value, decrypted if it is encrypted.
    pub async fn secret(&self, name: &str) -> Result<Option<SecretString>> {
        let parameter = self.get(name, true).await?;
        Ok(parameter.map(|parameter| parameter.value.into()))
    }

    async fn get(&self, name: &str, decrypted: bool) -> Result<Option<Parameter>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Found {
            parameter: Parameter,
        }
        let call = call(
            "GetParameter",
            &json!({"Name": name, "WithDecryption": decrypted}),
        );
        match self.0.call(&call).await? {
            Answer::Done(body) => Ok(Some(read::<Found>(&body, &call)?.parameter)),
            Answer::Rejected(no, _) if no.code == "ParameterNotFound" => Ok(None),
            Answer::Rejected(no, role) => Err(self.error(&call, no, &role, name)),
        }
    }

    /// All parameters below a path at any depth; ciphertext for encrypted ones.
    pub async fn parameters_below(&self, path: &str) -> Result<Vec<Parameter>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Page {
            parameters: Vec<Parameter>,
            next_token: Option<String>,
        }
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            // Ten is the maximum per page.
            let mut ask =
                json!({"Path": path, "Recursive": true, "WithDecryption": false, "MaxResults": 10});
            if let Some(token) = &token {
                ask["NextToken"] = json!(token);
            }
            let call = call("GetParametersByPath", &ask);
            let body = match self.0.call(&call).await? {
                Answer::Done(body) => body,
                Answer::Rejected(no, role) => return Err(self.error(&call, no, &role, path)),
            };
            let page: Page = read(&body, &call)?;
            found.extend(page.parameters);
            let next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(found);
            }
            if next == token {
                return Err(Error::failed(format!(
                    "Systems Manager returned the same page of {path} twice"
                )));
            }
            token = next;
        }
    }

    /// Removes a parameter; one that does not exist is no error.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let call = call("DeleteParameter", &json!({"Name": name}));
        match self.0.call(&call).await? {
            Answer::Done(_) => Ok(()),
            Answer::Rejected(no, _) if no.code == "ParameterNotFound" => Ok(()),
            Answer::Rejected(no, role) => Err(self.error(&call, no, &role, name)),
        }
    }

    fn error(
        &self,
        call: &Call,
        rejection: super::answer::Rejection,
        role: &str,
        name: &str,
    ) -> Error {
        self.0
            .error(call, rejection, role)
            .during(format!("cannot reach the store's parameter {name}"))
    }
}

fn call(action: &'static str, body: &Value) -> Call {
    Call {
        service: Service::Ssm,
        action,
        method: Method::POST,
        path: "/".to_owned(),
        headers: vec![
            ("content-type", "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target", format!("AmazonSSM.{action}")),
        ],
        body: body.to_string(),
    }
}

fn read<T: DeserializeOwned>(body: &str, call: &Call) -> Result<T> {
    serde_json::from_str(body)
        .attempting(|| format!("cannot read the answer to {}", call.iam_action()))
}
