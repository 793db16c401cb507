// Package keyholder holds the words of the FDS security model and every
// decision that rests on them.
//
// An agreement between an information provider and a resource owner is the
// root of every right. A consent lets one client application share in it, a
// subscription names what the consent created, and credentials (tokens and
// certificates) prove who is asking. Each right is decided by one pure
// function of this package (the Permit functions in permit.go); the servers
// under internal ask that function and only translate its [Verdict] into the
// answer of their protocol.
//
// The package uses the standard library only, keeps no state, reads no clock
// and draws no randomness of its own: time and entropy come in as arguments.
// All its functions are safe for concurrent use.
//
// Section numbers such as "2.6.4.2" are those of the FDS Version 2 security
// model. "W1".."W8" and "M1".."M8" are this project's names for its sixteen
// compliance requirements; see [Requirement].
package keyholder
