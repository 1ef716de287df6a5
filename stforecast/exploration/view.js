// What moves on the page. Bokeh runs this once its figures are there, with the models by name as `given`.
// The values lie in the page as text, see packing.py; nothing is asked of a server.
const models = given instanceof Map ? Object.fromEntries(given) : given

async function begin() {
  const facts = JSON.parse(document.getElementById("facts").textContent)
  const text = (id) => document.getElementById(id)?.textContent.trim()

  async function unpacked(id, width) {
    const letters = atob(text(id))
    const bytes = new Uint8Array(letters.length)
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i)
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))
    const planes = new Uint8Array(await new Response(stream).arrayBuffer())
    const count = planes.length / width
    const joined = new Uint8Array(planes.length)
    for (let plane = 0; plane < width; plane++)
      for (let i = 0; i < count; i++) joined[i * width + plane] = planes[plane * count + i]
    return joined.buffer
  }

  const cells = new Int32Array(await unpacked("cells", 4))  // of each pixel, from the south
  const centres = new Float32Array(await unpacked("centres", 4))
  const count = facts.row_names.length * facts.column_names.length
  const frames = facts.init_times.length * facts.lead_times.length
  const {ndarray} = Bokeh.require("core/util/ndarray")
  const has_truth = facts.truth_times !== null

  // One variable at one level: its arrays of whole numbers, read when it is first shown.
  const read = new Map()
  async function channel_of(number) {
    if (!read.has(number)) {
      const own = {...facts.channels[number]}
      for (const part of own.parts) own[part] = new Int16Array(await unpacked(`${part}-${number}`, 2))
      own.step = Math.pow(10, -own.decimals)
      own.value = (part, at) => {
        const whole = own[part][at]
        return whole === -32768 ? NaN : (whole + own.origin) * own.step
      }
      read.set(number, own)
    }
    return read.get(number)
  }

  const state = {channel: 0, init: facts.init, lead: facts.lead, cell: facts.cell}
  const shown = (value, own) => isNaN(value) ? "no value" : value.toFixed(Math.max(own.decimals, 0))
  const measured = (value, own) => own.units === "1" ? shown(value, own) : `${shown(value, own)} ${own.units}`
  const plain = (words) => words.replaceAll("&", "&amp;").replaceAll("<", "&lt;")
  const two = (number) => String(number).padStart(2, "0")
  const clock = (milliseconds) => {
    const at = new Date(milliseconds)  // times of the series' own clock, told as they are
    return `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ` +
      `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`
  }
  const zone = facts.zone ? ` ${facts.zone}` : ""
  const name_of = (cell) => {
    const row = Math.floor(cell / facts.column_names.length), column = cell % facts.column_names.length
    const own = `${facts.row_names[row]}, ${facts.column_names[column]}`
    if (!facts.row_degrees.length) return own
    return `${own} (${facts.row_degrees[row]}, ${facts.column_degrees[column]})`
  }

  // Where the values of the frame begin, and those of the truth; -1 where the truth lacks it.
  const forecast_at = () => (state.init * facts.lead_times.length + state.lead) * count
  const truth_at = () => {
    const row = has_truth ? facts.truth_rows[state.init][state.lead] : -1
    return row < 0 ? -1 : row * count
  }
  const value_at = (own, what, cell) => {
    if (what === "forecast") return own.value("forecast", forecast_at() + cell)
    const observed = truth_at() < 0 ? NaN : own.value("truth", truth_at() + cell)
    return what === "truth" ? observed : own.value("forecast", forecast_at() + cell) - observed
  }

  const maps = has_truth ? ["forecast", "truth", "error"] : ["forecast"]
  const [height, width] = facts.pixels
  function draw_map(own, what) {
    const {low, high} = what === "error" ? own.error_colours : own.colours
    const values = new Float32Array(cells.length)
    const of_cell = new Float32Array(count)
    for (let cell = 0; cell < count; cell++) of_cell[cell] = Math.min(Math.max(value_at(own, what, cell), low), high)
    // What is no cell is below every value, which the colours show as nothing.
    for (let pixel = 0; pixel < cells.length; pixel++)
      values[pixel] = cells[pixel] < 0 ? -Infinity : of_cell[cells[pixel]]
    const image = ndarray(values, {dtype: "float32", shape: [height, width]})
    const source = models[`${what}_source`]
    source.data = {...source.data, image: [image]}
  }

  function colour(own) {
    for (const what of maps) {
      const {palette, low, high} = what === "error" ? own.error_colours : own.colours
      models[`${what}_colours`].setv({palette, low, high})
    }
  }

  function draw_titles(own) {
    const init = facts.init_times[state.init], lead = facts.lead_times[state.lead]
    const units = `[${own.units}]`
    const said = {forecast: `Forecast ${units}`, truth: `Truth ${units}`, error: `Error: forecast minus truth ${units}`}
    for (const what of maps) {
      const is_absent = what !== "forecast" && truth_at() < 0
      models[`${what}_map`].title.text = is_absent ? `${said[what]}: no truth of this time` : said[what]
    }
    models.heading.text =
      `<b>${plain(own.title)}</b> &nbsp; valid ${clock(init + lead)}${zone}, init ${clock(init)}, lead ${facts.lead_words[state.lead]}`
    if (models.init) models.init_words.text = `init ${clock(init)}${zone}`
    if (models.lead) models.lead_words.text = `lead ${facts.lead_words[state.lead]}`
    const rounded = plain(`Values are rounded to ${measured(own.step, own)}.`)
    models.notes.text = has_truth
      ? `${rounded} Colours of the error end where 99.5 % of all errors are within.` : rounded
  }

  function draw_course(own) {
    const init = facts.init_times[state.init]
    const valid = facts.lead_times.map((lead) => init + lead)
    const first = state.init * facts.lead_times.length
    const along = (part) => valid.map((_, lead) => own.value(part, (first + lead) * count + state.cell))
    models.course_forecast.data = {x: valid, y: along("forecast")}
    models.course_band.data = own.parts.includes("lower")
      ? {x: valid, low: along("lower"), high: along("upper")} : {x: [NaN], low: [NaN], high: [NaN]}
    const x = has_truth ? [] : [NaN], y = has_truth ? [] : [NaN]
    if (has_truth) {
      const reach = valid[valid.length - 1] - init
      facts.truth_times.forEach((time, row) => {
        if (time < init - reach || time > init + reach) return
        if (x.length && time - x[x.length - 1] > facts.truth_step * 1.01) { x.push(time - 1); y.push(NaN) }
        x.push(time)
        y.push(own.value("truth", row * count + state.cell))
      })
    }
    models.course_truth.data = {x, y}
    models.course.title.text = `at ${name_of(state.cell)}`
    models.course.left[0].axis_label = `${own.title} [${own.units}]`
    models.init_line.location = init
    models.valid_line.location = valid[state.lead]
    models.place.data = {x: [centres[state.cell]], y: [centres[count + state.cell]]}
  }

  let drawing = Promise.resolve(), is_wanted = false
  function draw() {
    if (is_wanted) return drawing  // a slider that is dragged asks more often than one can draw
    is_wanted = true
    drawing = drawing.then(async () => {
      is_wanted = false
      const own = await channel_of(state.channel)
      colour(own)
      draw_titles(own)
      for (const what of maps) draw_map(own, what)
      draw_course(own)
    })
    return drawing
  }

  const cell_at = (x, y) => {
    const [west, east, south, north] = facts.limits
    const column = Math.floor((x - west) / (east - west) * width), row = Math.floor((y - south) / (north - south) * height)
    return column < 0 || row < 0 || column >= width || row >= height ? -1 : cells[row * width + column]
  }
  for (const what of maps) {
    models[`${what}_map`].on_event("tap", (event) => {
      const cell = cell_at(event.x, event.y)
      if (cell >= 0) { state.cell = cell; draw() }
    })
    models[`${what}_map`].on_event("mousemove", async (event) => {
      const cell = cell_at(event.x, event.y)
      const own = await channel_of(state.channel)
      const told = maps.map((part) => `${part} ${measured(value_at(own, part, Math.max(cell, 0)), own)}`).join(", ")
      models.readout.text = cell < 0 ? facts.hint : plain(`${name_of(cell)}: ${told}`)
    })
  }

  const listen = (name, set) => {
    const model = models[name]
    if (model) model.connect(model.properties.value.change, () => { set(model.value); draw() })
  }
  listen("init", (value) => { state.init = value })
  listen("lead", (value) => { state.lead = value })
  listen("channel", (value) => { state.channel = facts.channels.findIndex((own) => own.title === value) })
  if (models.play) {
    let timer = null
    models.play.connect(models.play.properties.active.change, () => {
      clearInterval(timer)
      if (models.play.active)
        timer = setInterval(() => { models.lead.value = (models.lead.value + 1) % facts.lead_times.length }, 500)
    })
  }
  await draw()
  window.stforecast = {state, models, drawn: () => drawing}  // for tests
}

begin().catch((error) => {
  const is_old = typeof DecompressionStream === "undefined"
  models.readout.text = is_old ? "This page needs a browser of 2023 or later." : `This page cannot be shown: ${error}`
  throw error
})
