// Package daemon reads the configuration, wires the packages together and
// starts and stops the listeners. It decides nothing.
package daemon
