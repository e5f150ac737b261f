//! Basic and bearer authentication, with token issuers restricted to the hosts that the endpoint allows; `http/response.rs`
//! parses challenges.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret as _;
use sluice_domain::AddressGuard;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::endpoint::account::{Account, Credential, without_scheme};
use crate::error::Error;
use crate::http::connection::Connection;
use crate::http::rate_limit::budget::RequestKind;
use crate::http::rate_limit::throttle::Waits;
use crate::http::refusal::refusal;
use crate::http::response::body::read_body;
use crate::http::response::{self, parse_challenge, parse_token};

/// The largest response of a token issuer.
const MAX_TOKEN_RESPONSE: usize = 1 << 20;
/// For how long an account is used before it is read again.
const ACCOUNT_LIFETIME: Duration = Duration::from_secs(60);
/// The name of the client at a token issuer.
const CLIENT_ID: &str = "sluice";
const GET_TOKEN: &str = "get a token for";

/// How a registry authenticates its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// It has not asked for any so far.
    None,
    /// By user name and password with each request.
    Basic,
    /// By a token of an issuer.
    Token {
        /// The host of the issuer.
        issuer: String,
    },
}

/// The challenge of a registry, with a realm that was checked.
#[derive(Debug, Clone)]
enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// The state of a client's authentication; tokens are cached per exact set of scopes.
#[derive(Debug, Default)]
pub(crate) struct Authenticator {
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<HashMap<String, TokenCell>>,
    account: Mutex<Option<(Option<Account>, Instant)>>,
}

/// The cache of one token; the task that fetches it holds the lock, and the others wait for that one request.
type TokenCell = Arc<Mutex<Option<(HeaderValue, Instant)>>>;

/// A request for a token.
#[derive(Clone, Copy)]
struct TokenRequest<'a> {
    realm: &'a Url,
    service: Option<&'a str>,
    scopes: &'a [String],
}

impl Authenticator {
    /// Returns the value of `Authorization` for these scopes, if the registry has ever asked for one.
    pub(crate) async fn authorization(
        &self,
        connection: &Connection,
        scopes: &[String],
    ) -> Result<Option<HeaderValue>, Error> {
        let challenge = self.challenge.lock().await.clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => self.basic(connection).await,
            Some(Challenge::Bearer { realm, service }) => {
                let request = TokenRequest {
                    realm: &realm,
                    service: service.as_deref(),
                    scopes,
                };
                self.token(connection, request).await.map(Some)
            }
        }
    }

    /// Returns how the registry authenticates its clients, as far as it has said so.
    pub(crate) async fn scheme(&self) -> Authentication {
        match &*self.challenge.lock().await {
            None => Authentication::None,
            Some(Challenge::Basic) => Authentication::Basic,
            Some(Challenge::Bearer { realm, .. }) => Authentication::Token {
                issuer: realm.host_str().unwrap_or_default().to_owned(),
            },
        }
    }

    /// Returns the account, from the cache or its source.
    async fn account(&self, connection: &Connection) -> Result<Option<Account>, Error> {
        let endpoint = &connection.endpoint;
        let Some(source) = &endpoint.source else {
            return Ok(endpoint.credential.clone().map(Account::Password));
        };
        let mut cached = self.account.lock().await;
        if let Some((account, until)) = cached.as_ref()
            && *until > Instant::now()
        {
            return Ok(account.clone());
        }
        let account = source.read(&endpoint.host).await?;
        *cached = Some((account.clone(), Instant::now() + ACCOUNT_LIFETIME));
        Ok(account)
    }

    async fn basic(&self, connection: &Connection) -> Result<Option<HeaderValue>, Error> {
        use http_auth::basic::encode_credentials;
        match self.account(connection).await? {
            None => Ok(None),
            Some(Account::Password(Credential { username, password })) => {
                let text = encode_credentials(&username, password.expose_secret());
                sensitive(connection, &text).map(Some)
            }
            Some(Account::Identity(_)) => Err(Error::untrusted(
                connection.host(),
                "it asks for a password, and there is an identity token only",
            )),
        }
    }

    /// Returns the secrets that were sent to the registry or its token issuer, which a response could quote.
    pub(crate) async fn secrets(&self, connection: &Connection) -> Vec<String> {
        let mut secrets = Vec::new();
        if let Some(credential) = &connection.endpoint.credential {
            secrets.extend(Account::Password(credential.clone()).secrets());
        }
        if let Some((Some(account), _)) = &*self.account.lock().await {
            secrets.extend(account.secrets());
        }
        for cell in self.tokens.lock().await.values() {
            // A token that is being fetched was not sent yet.
            if let Ok(token) = cell.try_lock()
                && let Some((value, _)) = &*token
                && let Ok(value) = value.to_str()
            {
                secrets.push(without_scheme(value).to_owned());
            }
        }
        secrets
    }

    /// Stores the challenge of a 401; the token that was `used` is dropped from the cache, a newer one is not.
    pub(crate) async fn accept_challenge(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        scopes: &[String],
        used: Option<&HeaderValue>,
    ) -> Result<(), Error> {
        if let Some(used) = used {
            let cell = self.token_cell(scopes).await;
            let mut token = cell.lock().await;
            token.take_if(|(value, _)| value == used);
            drop(token);
            // The account may have been rotated.
            self.forget_account().await;
        }
        let challenge = parse_challenge(headers)
            .map_err(|reason| Error::untrusted(connection.host(), reason))?;
        let challenge = match challenge {
            response::Challenge::Basic => Challenge::Basic,
            response::Challenge::Bearer { realm, service } => Challenge::Bearer {
                realm: match &connection.endpoint.token_url {
                    Some(url) => url.clone(),
                    None => check_realm(connection, &realm)?,
                },
                service,
            },
        };
        *self.challenge.lock().await = Some(challenge);
        Ok(())
    }

    /// Returns the cache of the token for these scopes; cells that are neither fresh nor in use are dropped.
    async fn token_cell(&self, scopes: &[String]) -> TokenCell {
        let key = scopes.join(" ");
        let mut tokens = self.tokens.lock().await;
        if !tokens.contains_key(&key) {
            let now = Instant::now();
            tokens.retain(|_, cell| {
                let is_fresh =
                    |token: &Option<(_, Instant)>| token.as_ref().is_some_and(|t| t.1 > now);
                Arc::strong_count(cell) > 1 || cell.try_lock().is_ok_and(|token| is_fresh(&token))
            });
        }
        Arc::clone(tokens.entry(key).or_default())
    }

    /// Returns a token; one task at a time fetches it for these scopes, the others find it in the cache.
    async fn token(
        &self,
        connection: &Connection,
        request: TokenRequest<'_>,
    ) -> Result<HeaderValue, Error> {
        let (host, budget) = (connection.host(), &connection.budget);
        let cell = self.token_cell(request.scopes).await;
        let mut token = cell.lock().await;
        if let Some((value, until)) = token.as_ref()
            && *until > Instant::now()
        {
            return Ok(value.clone());
        }
        budget.reserve(RequestKind::Login, None).await?;
        let response = self.fetch_token(connection, request).await;
        let response = budget.record_refusal(RequestKind::Login, response).await?;
        let body = read_body(host.as_str(), response, MAX_TOKEN_RESPONSE).await?;
        let (text, lifetime) =
            parse_token(&body).map_err(|reason| Error::untrusted(host, reason))?;
        let value = sensitive(connection, &format!("Bearer {text}"))?;
        // A tenth is kept in reserve for the time that requests take.
        let until = Instant::now() + lifetime - lifetime / 10;
        *token = Some((value.clone(), until));
        Ok(value)
    }

    /// Requests a token; if the account is refused, it is read again, since it may have been rotated.
    async fn fetch_token(
        &self,
        connection: &Connection,
        request: TokenRequest<'_>,
    ) -> Result<Response, Error> {
        let mut account = self.account(connection).await?;
        let mut response = send_token_request(connection, request, account.as_ref()).await?;
        let is_refused = matches!(response.status().as_u16(), 400 | 401 | 403);
        if is_refused && connection.endpoint.source.is_some() {
            self.forget_account().await;
            let current = self.account(connection).await?;
            let is_same = match (&account, &current) {
                (Some(before), Some(current)) => before.is_same(current),
                (before, current) => before.is_none() == current.is_none(),
            };
            if !is_same {
                account = current;
                response = send_token_request(connection, request, account.as_ref()).await?;
            }
        }
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (secrets, host) = (self.secrets(connection).await, connection.host().as_str());
        Err(refusal(connection, GET_TOKEN, host, response, &secrets).await)
    }

    async fn forget_account(&self) {
        *self.account.lock().await = None;
    }
}

/// Makes a header value that logs do not show.
fn sensitive(connection: &Connection, text: &str) -> Result<HeaderValue, Error> {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let value = HeaderValue::from_str(text).ok().filter(|_| is_plain);
    let mut value = value.ok_or_else(|| {
        Error::untrusted(
            connection.host(),
            "the token contains characters that a header may not have",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Accepts a token issuer only on the registry's own origin or on a host that the endpoint names.
fn check_realm(connection: &Connection, text: &str) -> Result<Url, Error> {
    let endpoint = &connection.endpoint;
    let refuse = |reason: &str| Error::untrusted(&endpoint.host, reason);
    let realm = Url::parse(text).map_err(|_| refuse("its token realm is no URL"))?;
    let authority = match (realm.host_str(), realm.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(refuse("its token realm has no host")),
    };
    let is_own = realm.origin() == endpoint.base.origin();
    if !is_own && !endpoint.realms.contains(&authority) {
        return Err(refuse(&format!(
            "its token realm is on `{authority}`, which is not the registry; if it is the right one, name it: `realms` of its `Registry`, `registry.token_host` of a service for the internal registry, or `--realm {authority}` on the command line"
        )));
    }
    if endpoint.base.scheme() == "https" && realm.scheme() != "https" {
        return Err(refuse(
            "its token realm would take the credential out of TLS",
        ));
    }
    AddressGuard::PrivateAllowed
        .check_url(&realm)
        .map_err(|error| refuse(&format!("its token realm: {error}")))?;
    Ok(realm)
}

async fn send_token_request(
    connection: &Connection,
    request: TokenRequest<'_>,
    account: Option<&Account>,
) -> Result<Response, Error> {
    let (throttle, mut waits) = (&connection.throttle, Waits::default());
    loop {
        let builder = request.builder(&connection.clients.registry, account);
        let sent = connection.transport.send(builder).await;
        let response = sent.map_err(Error::transport(GET_TOKEN, connection.host()))?;
        if response.status() != StatusCode::TOO_MANY_REQUESTS
            || !throttle.pause(response.headers(), &mut waits)
        {
            return Ok(response);
        }
        throttle.wait().await;
    }
}

impl TokenRequest<'_> {
    /// Builds the request: a password is sent with GET, as the token specification has it; an identity token is
    /// exchanged as OAuth 2 has it.
    fn builder(&self, client: &reqwest::Client, account: Option<&Account>) -> RequestBuilder {
        if let Some(Account::Identity(token)) = account {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("client_id", CLIENT_ID);
            form.append_pair("refresh_token", token.expose_secret());
            if let Some(service) = self.service {
                form.append_pair("service", service);
            }
            if !self.scopes.is_empty() {
                form.append_pair("scope", &self.scopes.join(" "));
            }
            return client
                .post(self.realm.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.finish());
        }
        let mut request = client.get(self.realm.clone());
        for scope in self.scopes {
            request = request.query(&[("scope", scope)]);
        }
        if let Some(service) = self.service {
            request = request.query(&[("service", service)]);
        }
        match account {
            Some(Account::Password(Credential { username, password })) => {
                request.basic_auth(username, Some(password.expose_secret()))
            }
            _ => request,
        }
    }
}
