// Package client is what an app is written with that uses FDS data on behalf
// of resource owners, and a provider's back end that delivers them.
//
// An app signs an owner's user in once ([Client.SignIn]: authorization code
// with PKCE), gets a [Session] for the subscription that the owner's consent
// created, and pulls items with it; the session renews its tokens by itself
// (FDS 2.6.5.1). What is pushed arrives through an HTTP handler ([NewReceiver])
// or over MQTT (package mqttpool). A provider delivers items with package
// publisher, or request by request with [Provider].
//
// Tokens leave this package in two ways only: in the header of a request over
// TLS, and as [Tokens] for the function that saves them. They stand in no
// error, no log line and no address; printing Tokens shows none of them.
//
// Errors that a caller can act on are [ErrSignInAgain], [APIError],
// [OAuthError] and [keyholder.Error]: code Invalid for wrong arguments and
// answers that make no sense, Unavailable for what may succeed later.
package client
