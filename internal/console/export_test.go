package console

// Decode is opened for its fuzz target.
var Decode = decode
