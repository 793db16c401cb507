package keyholder

import "strings"

// Nearest returns the known word that someone who wrote s probably meant, for
// a hint, or "" if none is near. Case is not looked at.
func Nearest(s string, known []string) string {
	if len(s) > 64 {
		return ""
	}
	best, distance := "", max(2, len(s)/3)+1
	for _, k := range known {
		if d := edits(strings.ToLower(s), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
