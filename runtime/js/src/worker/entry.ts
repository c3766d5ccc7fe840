/** The worker that `loadInWorker` starts unless it is given one. */

import { serve } from "./serve.js";

serve();
