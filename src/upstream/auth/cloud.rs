//! Credentials that a cloud gives to its own machines and workloads, for its own registry.

mod aws;
mod http;

use std::time::Duration;

use reqwest::Method;
use url::Url;

use self::http::Services;
use super::login::{Login, lifetime, usable};
use crate::upstream::{
    settings::{Provider, text_of},
    transport::Transport,
};

/// How long a credential is used of which the cloud does not say how long it is good.
const LIFETIME: Duration = Duration::from_secs(600);
/// The user that Azure Container Registry names for tokens of its own.
const AZURE_USER: &str = "00000000-0000-0000-0000-000000000000";

#[derive(Debug)]
pub(super) struct Cloud(Services);

impl Cloud {
    /// Sends nothing yet. `transport` knows the way out.
    pub(super) fn new(transport: &Transport) -> Cloud {
        Cloud(Services::new(transport))
    }

    /// What logs in to `registry`, and for how long it need not be asked for again.
    ///
    /// # Errors
    /// Which service said what; holds no secret.
    pub(super) async fn login(&self, provider: Provider, registry: &Url) -> Result<(Login, Duration), String> {
        match provider {
            Provider::Google => self.google().await,
            Provider::Azure => self.azure(registry).await,
            Provider::Ecr => aws::private(&self.0, registry).await,
            Provider::EcrPublic => aws::public(&self.0).await,
        }
    }

    /// The default service account's access token (Google Cloud, "About VM metadata"), which workload identity of GKE gives as well.
    async fn google(&self) -> Result<(Login, Duration), String> {
        let host = http::variable("GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".to_owned());
        let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
        let answer = self.0.metadata(Method::GET, &url, &[("metadata-flavor", "Google")]).await?.json()?;
        let lifetime = answer["expires_in"].as_u64().map_or(LIFETIME, usable);
        let token = answer["access_token"].as_str().ok_or("the metadata server gives no access_token")?;
        Ok((Login::new("oauth2accesstoken", token), lifetime))
    }

    /// A token of Microsoft Entra, exchanged for a refresh token of the registry (Azure/acr, docs/AAD-OAuth.md).
    async fn azure(&self, registry: &Url) -> Result<(Login, Duration), String> {
        let access = match http::variable("AZURE_FEDERATED_TOKEN_FILE") {
            Some(file) => self.azure_workload(&file).await?,
            None => self.azure_machine().await?,
        };
        let mut url = registry.clone();
        url.set_path("/oauth2/exchange");
        let service = registry.host_str().unwrap_or_default();
        let form = [("grant_type", "access_token"), ("service", service), ("access_token", &access)];
        let answer = self.0.form(url.as_str(), &form).await?.json()?;
        let token = answer["refresh_token"].as_str().ok_or("oauth2/exchange gives no refresh_token")?;
        let login = Login { identity_token: true, ..Login::new(AZURE_USER, token) };
        Ok((login, lifetime(token).unwrap_or(LIFETIME)))
    }

    /// Workload identity (azure-workload-identity): the token that Kubernetes signed, by the client credentials grant.
    async fn azure_workload(&self, file: &str) -> Result<String, String> {
        let needed = |name: &str| http::variable(name).ok_or_else(|| format!("{name} is not set"));
        let (tenant, client) = (needed("AZURE_TENANT_ID")?, needed("AZURE_CLIENT_ID")?);
        let authority =
            http::variable("AZURE_AUTHORITY_HOST").unwrap_or_else(|| "https://login.microsoftonline.com".to_owned());
        let assertion = text_of(file).await?;
        let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &client),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &assertion),
            ("scope", "https://management.azure.com/.default"),
        ];
        self.0.form(&url, &form).await?.text("access_token")
    }

    /// The managed identity of this machine, by the instance metadata service.
    async fn azure_machine(&self) -> Result<String, String> {
        let host = http::variable("AZURE_POD_IDENTITY_AUTHORITY_HOST");
        let host = host.unwrap_or_else(|| "http://169.254.169.254".to_owned());
        let mut url = format!(
            "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F",
            host.trim_end_matches('/')
        );
        if let Some(client) = http::variable("AZURE_CLIENT_ID") {
            url.push_str(&format!("&client_id={client}"));
        }
        self.0.metadata(Method::GET, &url, &[("metadata", "true")]).await?.text("access_token")
    }
}
