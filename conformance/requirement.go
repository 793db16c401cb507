package conformance

import keyholder "github.com/fds-keyholder/keyholder"

// Requirement is one of the sixteen compliance requirements of FDS 2.6.4.
type Requirement struct {
	ID      keyholder.Requirement `json:"id"`
	Text    string                `json:"text"`    // in this project's own words
	Section string                `json:"section"` // of the FDS Version 2 documentation
	Actor   string                `json:"actor"`   // who is responsible for it
	Level   string                `json:"level"`   // "MUST" for all of them
}

// The responsible actors, in the words of FDS 2.6.
const (
	actorWeb      = "information provider; client application for its webhooks"
	actorServer   = "information provider, with its authorization server"
	actorBroker   = "broker administrator"
	actorConsumer = "client application; broker administrator"
)

// Requirements returns the sixteen requirements in their order. The slice is
// the caller's own.
func Requirements() []Requirement {
	web := func(id keyholder.Requirement, actor, text string) Requirement {
		return Requirement{ID: id, Text: text, Section: "2.6.4.1", Actor: actor, Level: "MUST"}
	}
	mqtt := func(id keyholder.Requirement, actor, text string) Requirement {
		return Requirement{ID: id, Text: text, Section: "2.6.4.2", Actor: actor, Level: "MUST"}
	}
	return []Requirement{
		web(keyholder.W1, actorWeb, "web servers are reached over HTTPS only"),
		web(keyholder.W2, actorWeb, "web traffic is encrypted with TLS 1.2"),
		web(keyholder.W3, actorServer, "a dedicated authorization server manages access to the endpoints"),
		web(keyholder.W4, actorServer, "the client application is authenticated by that server"),
		web(keyholder.W5, actorWeb, "an OAuth2 token identifies and authorizes the resource owner at every endpoint"),
		web(keyholder.W6, actorServer, "a subscription ID tells resource owners apart, and each gets its own data only"),
		web(keyholder.W7, actorServer, "the subscription ID is a UUID version 4"),
		web(keyholder.W8, actorServer, "the OAuth2 token includes the subscription ID"),
		mqtt(keyholder.M1, actorBroker, "MQTT traffic is encrypted with TLS 1.2"),
		mqtt(keyholder.M2, actorBroker, "publishers and subscribers authenticate with X.509 certificates"),
		mqtt(keyholder.M3, actorBroker, "who manages the broker issues and manages the clients' certificates"),
		mqtt(keyholder.M4, actorConsumer, "a client application has a separate connection for each resource owner"),
		mqtt(keyholder.M5, actorConsumer, "the MQTT client ID is the subscription ID"),
		mqtt(keyholder.M6, actorBroker, "a subscriber subscribes only to topics of its own subscription ID"),
		mqtt(keyholder.M7, actorBroker, "only information providers publish"),
		mqtt(keyholder.M8, actorBroker, "only client applications subscribe"),
	}
}
