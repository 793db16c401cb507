// Package bench measures Keyholder against peers in the same run, because
// only ratios survive a change of machine. docs/performance.md says what was
// seen. Run it with `make bench`.
package bench
