package store

// Numbered is numbered, for its table and its fuzz target.
var Numbered = numbered
