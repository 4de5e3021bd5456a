package auditor

import (
	"context"
	"time"
)

// Impatient makes a client wait for nothing between two attempts.
func (c *Client) Impatient() { c.pause = func(context.Context, time.Duration) error { return nil } }
