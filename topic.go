package keyholder

import (
	"strings"
	"unicode/utf8"
)

// topicRoot begins every FDS topic (FDS 2.6.5.2).
const topicRoot = "fds/v2/"

// maxTopic bounds a topic name or filter, in bytes. MQTT allows 65,535; no
// FDS topic needs more than a few levels after the subscription ID.
const maxTopic = 1024

// Topic is a topic name a provider publishes to: fds/v2/<subscription>/<level>.
type Topic struct {
	Subscription SubscriptionID
	Level        string // one or more levels, for example "statuses"
}

// String returns the topic as it stands in an MQTT packet.
func (t Topic) String() string { return topicRoot + string(t.Subscription) + "/" + t.Level }

// ParseTopic returns s as a topic name, or an [Error] of code [Invalid] if it
// is not of the form fds/v2/<subscription_id>/<level>[/<level>...], holds a
// wildcard, an empty level, a control character or invalid UTF-8, or is
// longer than 1024 bytes.
func ParseTopic(s string) (Topic, error) {
	sub, rest, err := splitTopic(s)
	if err != nil {
		return Topic{}, err
	}
	if strings.ContainsAny(rest, "+#") {
		return Topic{}, Errorf(Invalid, "a topic name must not hold a wildcard")
	}
	return Topic{Subscription: sub, Level: rest}, nil
}

// Filter is a topic filter a consumer subscribes to, always below its own
// prefix.
type Filter struct {
	Subscription SubscriptionID
	Pattern      string // levels after the ID; + and # as in MQTT 4.7
}

// String returns the filter as it stands in an MQTT packet.
func (f Filter) String() string { return topicRoot + string(f.Subscription) + "/" + f.Pattern }

// ParseFilter returns s as a topic filter, or an [Error] of code [Invalid] if
// it is not below fds/v2/<subscription_id>/. There is no wildcard, $share or
// $SYS above that prefix: position 3 of the design, after FDS 2.6.5.2.
func ParseFilter(s string) (Filter, error) {
	sub, rest, err := splitTopic(s)
	if err != nil {
		return Filter{}, err
	}
	levels := strings.Split(rest, "/")
	for i, l := range levels {
		switch {
		case l == "#" && i == len(levels)-1, l == "+":
		case strings.ContainsAny(l, "+#"):
			return Filter{}, Errorf(Invalid, "a wildcard must fill its whole level, and # must be the last")
		}
	}
	return Filter{Subscription: sub, Pattern: rest}, nil
}

// Matches says whether the filter selects the topic, by the rules of MQTT 4.7.
func (f Filter) Matches(t Topic) bool {
	if f.Subscription != t.Subscription {
		return false
	}
	pattern, level := f.Pattern, t.Level
	for {
		p, morePattern, pMore := strings.Cut(pattern, "/")
		if p == "#" {
			return true
		}
		l, moreLevel, lMore := strings.Cut(level, "/")
		if p != "+" && p != l {
			return false
		}
		switch {
		case !pMore && !lMore:
			return true
		case pMore && !lMore:
			return morePattern == "#" // "a/#" also selects "a"
		case !pMore:
			return false
		}
		pattern, level = morePattern, moreLevel
	}
}

// splitTopic checks what names and filters share and returns the subscription
// and the levels after it.
func splitTopic(s string) (SubscriptionID, string, error) {
	hint := "the form is fds/v2/<subscription_id>/<level>"
	switch {
	case len(s) > maxTopic:
		return "", "", Errorf(Invalid, "the topic is longer than %d bytes", maxTopic)
	case !utf8.ValidString(s):
		return "", "", Errorf(Invalid, "the topic is not valid UTF-8")
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfeff || r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe {
			return "", "", Errorf(Invalid, "the topic holds a control character")
		}
	}
	rest, ok := strings.CutPrefix(s, topicRoot)
	if !ok {
		return "", "", Errorf(Invalid, "the topic does not begin with %s", topicRoot).WithHint("%s", hint)
	}
	id, levels, ok := strings.Cut(rest, "/")
	sub, err := ParseID[SubscriptionID](id)
	switch {
	case err != nil:
		return "", "", Errorf(Invalid, "the third level of the topic is not a subscription ID").WithHint("%s", hint)
	case !ok || levels == "":
		return "", "", Errorf(Invalid, "the topic has no level after the subscription ID").WithHint("%s", hint)
	case strings.HasPrefix(levels, "/"), strings.HasSuffix(levels, "/"), strings.Contains(levels, "//"):
		return "", "", Errorf(Invalid, "the topic has an empty level")
	}
	return sub, levels, nil
}
