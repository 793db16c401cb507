package conformance

// Example returns a commented target file with every key in it. [Parse] reads
// it; the addresses and files have to be replaced by real ones.
func Example() string { return example }

const example = `// A deployment to check against FDS 2.6.4, for: keyholder check -target FILE
// Lines that begin with // are comments. Every key is optional; probes that
// lack something are skipped and say what. File names are relative to this file.
//
// A check connects with the client IDs of both consumers and publishes test
// messages {"keyholder_check": "..."}: use subscriptions made for checking.
{
  "name": "staging",

  // The authorization server, exactly as it names itself in its metadata.
  "issuer": "https://login.provider.example",
  // The Web API: the part before /fds/v2.
  "api": "https://api.provider.example",
  // The broker. The port is 8883 unless given.
  "mqtt": "mqtts://mqtt.provider.example:8883",

  // Certificates that the servers' chains lead to; without it the system's.
  "ca": "ca.pem",
  // Certificates that the MQTT clients' chains lead to; without it the above.
  "client_ca": "client-ca.pem",

  // The token's claim that holds the subscription ID; found by itself if left out.
  "subscription_claim": "subscription_id",
  // Endpoints below /fds/v2/; without it all of FDS version 2 are tried.
  "endpoints": ["specifications", "statuses", "statistics", "diagnostics", "events", "event_specifications", "spaces"],
  // Topic level after the subscription ID for the test messages.
  "check_level": "check",

  // Two consumers, of two different resource owners.
  "consumer_a": {
    "subscription_id": "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30",
    "mqtt": {"certificate": "a.pem", "key": "a.key"},
    "oauth": {
      // client_credentials, refresh_token or access_token.
      "grant": "client_credentials",
      "client_id": "0b0f6c1e-9a37-4c7a-8d55-7e0d8b6c2f11",
      // client_secret_basic (the default with a secret) or client_secret_post.
      "auth_method": "client_secret_basic",
      // Or "secret": "...", if this file is not shown to anybody.
      "secret_file": "a.secret",
      "scope": "fds:read",
      // The request parameter that names the subscription, if there is one.
      "subscription_parameter": "subscription_id",
      // Further parameters of the token request.
      "parameters": {"resource": "https://api.provider.example"}
    }
  },
  "consumer_b": {
    "subscription_id": "c2d8a1b4-5e6f-4a7b-8c9d-0e1f2a3b4c5d",
    "mqtt": {"certificate": "b.pem", "key": "b.key"},
    "oauth": {
      // A client with a certificate instead of a secret, whose user has signed
      // in before. A new refresh token is written back into the file.
      "grant": "refresh_token",
      "client_id": "d94f4d0a-1c8b-4b61-9f36-5a1e7c3b8d22",
      "auth_method": "tls_client_auth",
      "certificate": "b-app.pem",
      "key": "b-app.key",
      "refresh_token_file": "b.refresh"
      // With grant access_token instead: "access_token_file": "b.token".
      // "refresh_token" and "access_token" may stand here themselves, too.
    }
  },

  // The provider that issued both subscriptions, as an MQTT publisher.
  "provider": {"id": "7a3c5e1f-2b4d-4f6a-8c0e-9d1b3f5a7c02", "certificate": "provider.pem", "key": "provider.key"},
  // Another provider, with no right to either subscription.
  "provider2": {"id": "e5b7d9f1-3a5c-4e7f-9b1d-2c4e6a8f0b13", "certificate": "provider2.pem", "key": "provider2.key"},

  // A revoked MQTT certificate of consumer A, and an expired token of it
  // (or "expired_token" itself).
  "revoked_certificate": {"certificate": "a-revoked.pem", "key": "a-revoked.key"},
  "expired_token_file": "a.expired",

  // Who may introspect tokens; needed where they are opaque.
  "resource_server": {"client_id": "fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24", "secret_file": "rs.secret"},

  // A client application's webhook, and how the provider gets a token for it.
  "webhook": {
    "url": "https://app.consumer.example/fds/push",
    "issuer": "https://login.consumer.example",
    "subscription_id": "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30",
    "oauth": {
      "client_id": "7a3c5e1f-2b4d-4f6a-8c0e-9d1b3f5a7c02",
      "certificate": "provider.pem",
      "key": "provider.key",
      "scope": "fds:push",
      "subscription_parameter": "subscription_id"
    }
  }
}
`
