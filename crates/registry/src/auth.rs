//! Bearer and basic authentication, with the realm pinned.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret as _;
use sluice_domain::address::AddressGuard;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::answers;
use crate::budget::Spending;
use crate::check::Authentication;
use crate::client::{Client, limited};
use crate::endpoint::Credential;
use crate::error::Error;
use crate::login::{Account, without_scheme};
use crate::throttle::Waits;

/// The largest answer of a token issuer.
const MAX_TOKEN_ANSWER: usize = 1 << 20;
/// For how long an account is used before it is read again.
const ACCOUNT_KEPT: Duration = Duration::from_secs(60);
/// How the client calls itself to an issuer.
const CLIENT: &str = "sluice";
/// What stands where a secret was.
const BLOTTED: &str = "[secret]";

/// What a registry asked for when it refused.
#[derive(Debug, Clone)]
enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// What is known of a registry's authentication; the token cache is per exact set of scopes.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<HashMap<String, Cell>>,
    account: Mutex<Option<(Option<Account>, Instant)>>,
}

/// The place of one token; whoever fetches it holds the lock, and the others wait for that one request.
type Cell = Arc<Mutex<Option<(HeaderValue, Instant)>>>;

impl Client {
    /// Returns the value of `Authorization` for these scopes, if the registry has ever asked for one.
    pub(crate) async fn authorization(
        &self,
        scopes: &[String],
    ) -> Result<Option<HeaderValue>, Error> {
        let challenge = self.shared.auth.challenge.lock().await.clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => self.basic().await,
            Some(Challenge::Bearer { realm, service }) => self
                .token(&realm, service.as_deref(), scopes)
                .await
                .map(Some),
        }
    }

    /// Returns how the registry wants to know who asks, as far as it has said so.
    pub(crate) async fn authentication(&self) -> Authentication {
        match &*self.shared.auth.challenge.lock().await {
            None => Authentication::Nothing,
            Some(Challenge::Basic) => Authentication::Basic,
            Some(Challenge::Bearer { realm, .. }) => Authentication::Token {
                issuer: realm.host_str().unwrap_or_default().to_owned(),
            },
        }
    }

    /// Returns the account; one that was read a while ago is read anew.
    async fn account_at_home(&self) -> Result<Option<Account>, Error> {
        let endpoint = &self.shared.endpoint;
        let Some(source) = &endpoint.source else {
            return Ok(endpoint.credential.clone().map(Account::Password));
        };
        let mut read = self.shared.auth.account.lock().await;
        if let Some((account, until)) = read.as_ref()
            && *until > Instant::now()
        {
            return Ok(account.clone());
        }
        let account = source.read(&endpoint.host).await?;
        *read = Some((account.clone(), Instant::now() + ACCOUNT_KEPT));
        Ok(account)
    }

    async fn basic(&self) -> Result<Option<HeaderValue>, Error> {
        use http_auth::basic::encode_credentials;
        match self.account_at_home().await? {
            None => Ok(None),
            Some(Account::Password(Credential { username, password })) => {
                let text = encode_credentials(&username, password.expose_secret());
                self.sensitive(&text).map(Some)
            }
            Some(Account::Identity(_)) => Err(Error::untrusted(
                &self.shared.endpoint.host,
                "it asks for a password, and there is an identity token only",
            )),
        }
    }

    /// Blots out in a text of the registry what this client has told it in confidence.
    pub(crate) async fn without_secrets(&self, text: &str) -> String {
        let mut secrets = Vec::new();
        if let Some(credential) = &self.shared.endpoint.credential {
            secrets.extend(Account::Password(credential.clone()).secrets());
        }
        if let Some((Some(account), _)) = &*self.shared.auth.account.lock().await {
            secrets.extend(account.secrets());
        }
        for cell in self.shared.auth.tokens.lock().await.values() {
            // One that is being fetched was not told to anybody yet.
            if let Ok(token) = cell.try_lock()
                && let Some((value, _)) = &*token
                && let Ok(value) = value.to_str()
            {
                secrets.push(without_scheme(value).to_owned());
            }
        }
        let mut text = text.to_owned();
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, BLOTTED);
        }
        text
    }

    fn sensitive(&self, text: &str) -> Result<HeaderValue, Error> {
        let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let value = HeaderValue::from_str(text).ok().filter(|_| is_plain);
        let mut value = value.ok_or_else(|| {
            Error::untrusted(
                &self.shared.endpoint.host,
                "the token holds characters that no header may",
            )
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Learns from a refusal what the registry wants; a token that was `used` is forgotten, a newer one is not.
    pub(crate) async fn learn(
        &self,
        headers: &HeaderMap,
        scopes: &[String],
        used: Option<&HeaderValue>,
    ) -> Result<(), Error> {
        let host = &self.shared.endpoint.host;
        let refuse = |reason: &str| Error::untrusted(host, reason);
        if let Some(used) = used {
            let cell = self.cell(scopes).await;
            let mut token = cell.lock().await;
            token.take_if(|(value, _)| value == used);
            drop(token);
            // It may be another one by now.
            self.forget_account().await;
        }
        let challenge = match answers::challenge(headers).map_err(refuse)? {
            answers::Challenge::Basic => Challenge::Basic,
            answers::Challenge::Bearer { realm, service } => Challenge::Bearer {
                realm: self.realm(&realm)?,
                service,
            },
        };
        *self.shared.auth.challenge.lock().await = Some(challenge);
        Ok(())
    }

    /// Accepts a realm only on the registry's own host or one that its settings name.
    fn realm(&self, text: &str) -> Result<Url, Error> {
        let endpoint = &self.shared.endpoint;
        let refuse = |reason: &str| Error::untrusted(&endpoint.host, reason);
        let realm = Url::parse(text).map_err(|_| refuse("its token realm is no address"))?;
        let authority = match (realm.host_str(), realm.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(refuse("its token realm has no host")),
        };
        let own = realm.origin() == endpoint.base.origin();
        if !own && !endpoint.realms.contains(&authority) {
            return Err(refuse(&format!(
                "its token realm is on `{authority}`, which its settings do not name in `realms` (on the command line: `--realm {authority}`)"
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

    /// Finds the place of the token for these scopes; a place that is neither filled nor in use is given up.
    async fn cell(&self, scopes: &[String]) -> Cell {
        let key = scopes.join(" ");
        let mut tokens = self.shared.auth.tokens.lock().await;
        if !tokens.contains_key(&key) {
            let now = Instant::now();
            tokens.retain(|_, cell| {
                let fresh =
                    |token: &Option<(_, Instant)>| token.as_ref().is_some_and(|t| t.1 > now);
                Arc::strong_count(cell) > 1 || cell.try_lock().is_ok_and(|token| fresh(&token))
            });
        }
        Arc::clone(tokens.entry(key).or_default())
    }

    /// One request at a time fetches a token of these scopes; the others find it in the cache.
    async fn token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
    ) -> Result<HeaderValue, Error> {
        let host = &self.shared.endpoint.host;
        let cell = self.cell(scopes).await;
        let mut token = cell.lock().await;
        if let Some((value, until)) = token.as_ref()
            && *until > Instant::now()
        {
            return Ok(value.clone());
        }
        self.may_ask(Spending::Login).await?;
        let answer = self.ask_for_token(realm, service, scopes).await;
        let answer = self.heeded(Spending::Login, answer).await?;
        let body = limited(host.as_str(), answer, MAX_TOKEN_ANSWER).await?;
        let (text, lifetime) =
            answers::token(&body).map_err(|reason| Error::untrusted(host, reason))?;
        let value = self.sensitive(&format!("Bearer {text}"))?;
        // A tenth is kept for the way.
        let until = Instant::now() + lifetime - lifetime / 10;
        *token = Some((value.clone(), until));
        Ok(value)
    }

    /// Asks the issuer; an account that is refused is read once more, for it may have been rotated.
    async fn ask_for_token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
    ) -> Result<Response, Error> {
        let host = &self.shared.endpoint.host;
        let mut account = self.account_at_home().await?;
        let mut answer = self
            .token_answer(realm, service, scopes, account.as_ref())
            .await?;
        let refused = matches!(answer.status().as_u16(), 400 | 401 | 403);
        if refused && self.shared.endpoint.source.is_some() {
            self.forget_account().await;
            let anew = self.account_at_home().await?;
            let is_same = match (&account, &anew) {
                (Some(before), Some(anew)) => before.is_same(anew),
                (before, anew) => before.is_none() == anew.is_none(),
            };
            if !is_same {
                account = anew;
                answer = self
                    .token_answer(realm, service, scopes, account.as_ref())
                    .await?;
            }
        }
        self.accept("get a token for", host.as_str(), answer, &[200])
            .await
    }

    async fn token_answer(
        &self,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
        account: Option<&Account>,
    ) -> Result<Response, Error> {
        let (throttle, mut waits) = (&self.shared.common.throttle, Waits::default());
        loop {
            let request = self.token_request(realm, service, scopes, account);
            let sent = self.shared.transport.send(request);
            let answer = sent.await.map_err(Error::transport(
                "get a token for",
                &self.shared.endpoint.host,
            ))?;
            if answer.status() != StatusCode::TOO_MANY_REQUESTS
                || !throttle.refused(answer.headers(), &mut waits)
            {
                return Ok(answer);
            }
            throttle.wait().await;
        }
    }

    /// A password asks with GET, as the token specification has it; an identity token is exchanged as OAuth 2 has it.
    fn token_request(
        &self,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
        account: Option<&Account>,
    ) -> RequestBuilder {
        let http = &self.shared.wires.http;
        if let Some(Account::Identity(token)) = account {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("client_id", CLIENT);
            form.append_pair("refresh_token", token.expose_secret());
            if let Some(service) = service {
                form.append_pair("service", service);
            }
            if !scopes.is_empty() {
                form.append_pair("scope", &scopes.join(" "));
            }
            return http
                .post(realm.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.finish());
        }
        let mut request = http.get(realm.clone());
        for scope in scopes {
            request = request.query(&[("scope", scope)]);
        }
        if let Some(service) = service {
            request = request.query(&[("service", service)]);
        }
        match account {
            Some(Account::Password(Credential { username, password })) => {
                request.basic_auth(username, Some(password.expose_secret()))
            }
            _ => request,
        }
    }

    async fn forget_account(&self) {
        *self.shared.auth.account.lock().await = None;
    }
}
