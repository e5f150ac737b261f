//! The gateway: the HTTP edge. REST API, token issuer of the internal registry, intake of its notifications.
//!
//! It must not work on images: it reads state, publishes facts and commands.
