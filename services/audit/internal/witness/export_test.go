package witness

import "context"

// Take waits for the next answer and takes it. It tells whether there was one to wait for.
func (c *Client) Take(ctx context.Context) (bool, error) {
	if len(c.asked) == 0 {
		return false, nil
	}
	return true, c.take(ctx, <-c.answered)
}
