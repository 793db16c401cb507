package keyholder

// Kind is a kind of FDS item: the last path segment of its Web API endpoint
// and, by convention, the topic level after the subscription ID.
type Kind string

// The kinds of items of FDS version 2.
const (
	Specifications      Kind = "specifications"
	Statuses            Kind = "statuses"
	Statistics          Kind = "statistics"
	Diagnostics         Kind = "diagnostics"
	Events              Kind = "events"
	EventSpecifications Kind = "event_specifications"
	Spaces              Kind = "spaces"
	Tags                Kind = "tag"
)

// Kinds lists the kinds of items a provider keeps, in the order of the FDS
// pages. Tags are made by apps and are not among them.
func Kinds() []Kind {
	return []Kind{Specifications, Statuses, Statistics, Diagnostics, Events, EventSpecifications, Spaces}
}

// ParseKind returns s as one of [Kinds], or an [Error] of code [Invalid].
func ParseKind(s string) (Kind, error) {
	for _, k := range Kinds() {
		if string(k) == s {
			return k, nil
		}
	}
	return "", Errorf(Invalid, "unknown kind of item").
		WithHint("the kinds are specifications, statuses, statistics, diagnostics, events, event_specifications and spaces")
}

// Pushed says whether items of the kind are pushed when they are ingested.
// FDS version 2 has no messages on spaces, and permanent properties are
// pulled.
func (k Kind) Pushed() bool {
	return k == Statuses || k == Statistics || k == Events
}
