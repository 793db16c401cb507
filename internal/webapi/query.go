package webapi

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/facility"
)

const (
	// maxQuery bounds a query string, in bytes.
	maxQuery = 32 << 10
	// maxIDs bounds the IDs of one request.
	maxIDs = 1000
)

// parseIDs reads the query of an endpoint whose only parameter is "ids": IDs
// with commas between them. It returns nil if the parameter is not there.
// Any other name, a repeated parameter and an empty, malformed or overlong
// value are errors of code Invalid; the value is never repeated in them. An
// ID that holds a comma can not be asked for, since clients encode the commas
// between IDs too.
func parseIDs(query string) ([]string, error) {
	values, err := parseQuery(query, "ids")
	if err != nil {
		return nil, err
	}
	value, there := values["ids"]
	if !there {
		return nil, nil
	}
	ids := strings.Split(value, ",")
	if len(ids) > maxIDs {
		return nil, keyholder.Errorf(keyholder.Invalid, "%d IDs where %d are allowed", len(ids), maxIDs).WithHint("ask in several requests")
	}
	for _, id := range ids {
		if err := facility.CheckID(id); err != nil {
			return nil, keyholder.Errorf(keyholder.Invalid, "parameter ids: %s", err).WithHint("give one or more IDs with commas between them")
		}
	}
	return ids, nil
}

// parseQuery reads a query string in which only the allowed names may stand,
// each once.
func parseQuery(query string, allowed ...string) (map[string]string, error) {
	if len(query) > maxQuery {
		return nil, keyholder.Errorf(keyholder.Invalid, "the query is longer than %d bytes", maxQuery)
	}
	parsed, err := url.ParseQuery(query)
	if err != nil {
		return nil, keyholder.Errorf(keyholder.Invalid, "the query is not well formed")
	}
	hint := "this endpoint takes no parameters"
	if len(allowed) > 0 {
		hint = "this endpoint takes only: " + strings.Join(allowed, ", ")
	}
	known := map[string]string{}
	for _, name := range allowed {
		values, there := parsed[name]
		delete(parsed, name)
		switch {
		case !there:
			continue
		case len(values) > 1:
			return nil, keyholder.Errorf(keyholder.Invalid, "parameter %s is given more than once", name)
		case !utf8.ValidString(values[0]):
			return nil, keyholder.Errorf(keyholder.Invalid, "parameter %s is not valid UTF-8", name)
		}
		known[name] = values[0]
	}
	if len(parsed) > 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "unknown parameter").WithHint("%s", hint)
	}
	return known, nil
}
