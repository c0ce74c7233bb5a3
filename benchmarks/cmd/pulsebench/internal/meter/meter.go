// Package meter reads what processes of this machine use.
package meter

// Memory is a process's memory in bytes.
type Memory struct {
	RSS  int64 `json:"rss"`  // resident now
	Peak int64 `json:"peak"` // the most that ever was
}
