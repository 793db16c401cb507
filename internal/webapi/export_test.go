package webapi

import "encoding/json"

// ParseIDs opens the parser of the query to the fuzzer.
func ParseIDs(query string) ([]string, error) { return parseIDs(query) }

// Split opens the splitters of bodies to the fuzzer.
func Split(src []byte, lines bool) ([]json.RawMessage, error) {
	if lines {
		return splitLines(src)
	}
	return splitJSON(src)
}
