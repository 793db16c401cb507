package keyholder

// Requirement names the rule a [Verdict] rests on: one of the sixteen FDS
// 2.6.4 requirements, in the numbering of this project. Their texts are data
// of package conformance.
type Requirement string

// Web API requirements (FDS 2.6.4.1).
const (
	W1 Requirement = "W1" // HTTPS only
	W2 Requirement = "W2" // TLS 1.2
	W3 Requirement = "W3" // a dedicated authorization server manages access
	W4 Requirement = "W4" // the client application is authenticated there
	W5 Requirement = "W5" // the owner is identified and authorized through an OAuth2 token
	W6 Requirement = "W6" // the owner is identified through a subscription ID
	W7 Requirement = "W7" // the subscription ID is a UUID version 4
	W8 Requirement = "W8" // the token includes the subscription ID
)

// MQTT requirements (FDS 2.6.4.2).
const (
	M1 Requirement = "M1" // TLS 1.2
	M2 Requirement = "M2" // X.509 certificates on both sides
	M3 Requirement = "M3" // the broker's manager issues and manages them
	M4 Requirement = "M4" // one connection per resource owner
	M5 Requirement = "M5" // client ID = subscription ID
	M6 Requirement = "M6" // subscribe only to topics of the own ID
	M7 Requirement = "M7" // only providers publish
	M8 Requirement = "M8" // only consumers subscribe
)
