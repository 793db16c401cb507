// Package conformance checks from outside whether a deployment of FDS
// Version 2 keeps the sixteen compliance requirements of FDS 2.6.4.
//
// It knows nothing of the software it checks. A [Target] names addresses and
// the credentials of two consumers and a provider; [Run] sends ordinary and
// forbidden requests to those addresses and judges the answers. Every
// requirement has probes of both kinds: a positive one shows that what must
// work does, a negative one shows that what must be refused is. A requirement
// holds only if at least one of each kind passed and none failed or broke
// down. A refusal counts only after the same request with the right
// credentials has worked, so a broken deployment does not pass as a strict
// one.
//
// What a run does to the deployment:
//
//   - It connects to the broker with the client IDs of consumers A and B,
//     which takes over a session that is using them. Check with subscriptions
//     made for the purpose.
//   - It publishes test messages to topic level "check" (see
//     [Target.CheckLevel]), each the JSON object {"keyholder_check": "..."}.
//     Consumers may ignore them. Where a forbidden publish is wrongly
//     accepted, that message may reach a consumer too.
//   - It acknowledges what reaches its own connections.
//   - It uses up a refresh token if the target says so; see
//     [Credentials.RefreshTokenFile].
//
// Limits. MQTT is spoken in version 5 only, because only that version answers
// a publish and each filter with a reason; a broker without it cannot be
// checked. TLS below 1.0 and suites that crypto/tls does not implement are not
// tried. Expired and revoked credentials cannot be made from outside: without
// them in the target their probes are skipped.
//
// A [Report] holds no secret: tokens, client secrets and keys are never part
// of it, and answers are shortened and cleaned of control characters.
package conformance
