// Package guard turns the access token of a request into the subscription it
// speaks for. A provider that keeps its own Web API puts it in front of its
// handlers; Keyholder's own doors use the same code.
//
// A [Guard] verifies RFC 9068 tokens: type at+jwt, an allowed signature
// algorithm (ES256 unless told otherwise), a key published by the one trusted
// issuer, issuer, audience and times. What it has verified it remembers in a
// bounded cache, so that the next request with the same token costs a hash
// instead of a signature check. Whether a verified token may do something is
// not decided here but by the Permit functions of package keyholder, on every
// request: [Guard.Middleware] asks [keyholder.PermitToken] and then the
// caller's own function.
//
// A guard fails closed: whatever is missing, unknown, repeated or too large
// is refused with a [keyholder.Error]. It logs nothing and repeats nothing of
// a token in an error.
//
// A token bound to a key (cnf.jkt) comes with the scheme DPoP and a proof of
// that key for the very request (RFC 9449), which is taken once. Used proofs
// are remembered in memory until they are too old: a full memory refuses
// further ones, and a guard that has just begun refuses those made before.
//
// Certificate-bound tokens (RFC 8705) need the TLS connection to end in this
// process; behind a proxy that ends it they are refused.
package guard
